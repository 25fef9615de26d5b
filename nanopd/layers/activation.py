"""SwiGLU's activation (arXiv:2002.05202) on a fused gate-up projection."""

import torch
import torch.nn.functional as F


def silu_mul(gate_up_TF: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, where each row holds gate then up: [T, 2F] -> [T, F]."""
    gate, up = gate_up_TF.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
