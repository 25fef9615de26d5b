"""RMSNorm (arXiv:1910.07467), alone and fused with the residual addition before it."""

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


def add_rms_norm_(x_TE: torch.Tensor, residual_TE: torch.Tensor, weight_E: torch.Tensor, eps: float) -> torch.Tensor:
    """Adds x to the residual stream in place and returns the stream's norm."""
    if uses_kernels(x_TE):
        from nanopd.kernels import norm
        from nanopd.kernels.jit import supports_pdl

        return norm.add_rms_norm(x_TE, residual_TE, weight_E, eps, pdl=supports_pdl(x_TE.device))
    return rms_norm(residual_TE.add_(x_TE), weight_E, eps)
