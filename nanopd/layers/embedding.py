"""Token embedding."""

import torch


def embed(token_ids_T: torch.Tensor, weight_VE: torch.Tensor) -> torch.Tensor:
    """Rows of the table: [T] -> [T, E]."""
    return weight_VE.index_select(0, token_ids_T)
