"""SwiGLU's activation (arXiv:2002.05202) on a fused gate-up projection."""

import torch
import torch.nn.functional as F

from nanopd.layers.dispatch import uses_kernels


def silu_mul(gate_up_TF: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, where each row holds gate then up: [T, 2F] -> [T, F]."""
    if uses_kernels(gate_up_TF):
        from nanopd.kernels import activation
        from nanopd.kernels.jit import supports_pdl

        return activation.silu_mul(gate_up_TF, pdl=supports_pdl(gate_up_TF.device))
    gate, up = gate_up_TF.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
