"""Rotary embedding applied with torch operations."""

import torch


def rotate_(heads_TND: torch.Tensor, cos_T1h: torch.Tensor, sin_T1h: torch.Tensor) -> None:
    """Rotates T tokens' N heads in place; arithmetic in float32. ``cos`` and ``sin`` are [T, 1, D / 2]."""
    x = heads_TND if heads_TND.dtype == torch.float32 else heads_TND.float()
    first, second = x.chunk(2, dim=-1)
    old_first = first.clone()
    first.mul_(cos_T1h).addcmul_(second, sin_T1h, value=-1.0)
    second.mul_(cos_T1h).addcmul_(old_first, sin_T1h)
    if x is not heads_TND:
        heads_TND.copy_(x)
