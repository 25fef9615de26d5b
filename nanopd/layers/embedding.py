"""Token embedding."""

import torch

from nanopd.layers.dispatch import uses_kernels


def embed(token_ids_T: torch.Tensor, weight_VE: torch.Tensor) -> torch.Tensor:
    """Rows of the table: [T] (int32 or int64) -> [T, E]."""
    if uses_kernels(weight_VE):
        from nanopd.kernels import embedding
        from nanopd.kernels.jit import supports_pdl

        return embedding.embedding(token_ids_T, weight_VE, pdl=supports_pdl(weight_VE.device))
    return weight_VE.index_select(0, token_ids_T)
