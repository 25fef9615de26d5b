"""RMSNorm (arXiv:1910.07467), alone and fused with the residual addition before it."""

import torch
import torch.nn.functional as F


def rms_norm(x_TE: torch.Tensor, weight_E: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; statistics in float32."""
    return F.rms_norm(x_TE, weight_E.shape, weight_E, eps)


def add_rms_norm_(x_TE: torch.Tensor, residual_TE: torch.Tensor, weight_E: torch.Tensor, eps: float) -> torch.Tensor:
    """Adds x to the residual stream in place and returns the stream's norm."""
    residual_TE.add_(x_TE)
    return rms_norm(residual_TE, weight_E, eps)
