"""Rotary embedding applied with torch operations."""

import torch


def rotation_factors(cos_sin_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From rows of the table (cos, then sin): what x and its swapped halves are multiplied by, [T, 1, D] each."""
    cos, sin = cos_sin_TD.unsqueeze(1).chunk(2, dim=-1)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate_(heads_TND: torch.Tensor, cos_T1D: torch.Tensor, sin_T1D: torch.Tensor) -> None:
    """Rotates T tokens' N heads in place by ``rotation_factors``; arithmetic in float32."""
    x = heads_TND if heads_TND.dtype == torch.float32 else heads_TND.float()
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat((second, first), dim=-1)
    x.mul_(cos_T1D).addcmul_(swapped, sin_T1D)
    if x is not heads_TND:
        heads_TND.copy_(x)
