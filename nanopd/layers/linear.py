"""Dense projections."""

import torch
import torch.nn.functional as F


def linear(x_TE: torch.Tensor, weight_FE: torch.Tensor, bias_F: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T + bias: [T, E] -> [T, F]."""
    return F.linear(x_TE, weight_FE, bias_F)
