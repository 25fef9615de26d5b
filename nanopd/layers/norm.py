"""RMSNorm (arXiv:1910.07467)."""

import torch
import torch.nn.functional as F

from nanopd.layers.dispatch import uses_kernels


def rms_norm(x_TE: torch.Tensor, weight_E: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; statistics in float32."""
    if uses_kernels(x_TE):
        from nanopd.kernels import norm
        from nanopd.kernels.jit import supports_pdl

        return norm.rms_norm(x_TE, weight_E, eps, pdl=supports_pdl(x_TE.device))
    return F.rms_norm(x_TE, weight_E.shape, weight_E, eps)
