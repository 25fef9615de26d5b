"""Token embedding."""

import torch

from nanopd.layers.dispatch import uses_kernels


def embed(token_ids_T: torch.Tensor, weight_VE: torch.Tensor) -> torch.Tensor:
    """Rows of the table as the start of a residual stream: [T] (int32 or int64) -> float32 [T, E]."""
    if uses_kernels(weight_VE):
        from nanopd.kernels import embedding
        from nanopd.kernels.jit import supports_pdl

        out_TE = torch.empty(len(token_ids_T), weight_VE.shape[1], dtype=torch.float32, device=weight_VE.device)
        return embedding.embedding(token_ids_T, weight_VE, out_TE, pdl=supports_pdl(weight_VE.device))
    return weight_VE.index_select(0, token_ids_T).float()
