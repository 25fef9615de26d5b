"""The attention seam: one protocol, two backends (torch reference on any device, handwritten CUDA).

Shape legend: T tokens in the step, B sequences, H query heads, K kv heads, D head dim, M blocks per block-table row, S block size.
Sequences are laid out back to back in T; the ``num_decodes`` one-token sequences come first.
"""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Geometry of one step, shared by every layer. Tensors live on the device unless said otherwise."""

    positions_T: torch.Tensor  # int64
    slot_mapping_T: torch.Tensor  # int64: block * block_size + offset; -1: padding, nothing is stored
    block_tables_BM: torch.Tensor  # int32
    context_lens_B: torch.Tensor  # int32: KV length including this step's tokens; 0: padding
    cu_q_lens_B1: torch.Tensor  # int32, B + 1
    num_decodes: int  # leading sequences with one query token
    q_lens: tuple[int, ...]  # host copy
    context_lens: tuple[int, ...]  # host copy (upper bounds when captured in a graph)
    block_size: int


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Per-head RMSNorm of q and k before rotary (Qwen3)."""

    q_weight_D: torch.Tensor
    k_weight_D: torch.Tensor
    eps: float


class AttentionBackend(Protocol):
    """Computes one layer's attention on the paged KV of that layer: ``kv_layer`` is [num_blocks, 2, K, S, D], index 0 K, 1 V."""

    def store(
        self,
        qkv_TX: torch.Tensor,  # [T, (H + 2K) * D], as the fused projection wrote it
        cos_sin_PD: torch.Tensor,  # float32 [max positions, D]: cos in the first half, sin in the second
        norms: HeadNorms | None,
        kv_layer: torch.Tensor,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """Normalises (if asked) and rotates q and k, stores K and V at ``slot_mapping``; returns q as [T, H, D]."""
        ...

    def attend(self, q_THD: torch.Tensor, kv_layer: torch.Tensor, batch: AttentionBatch) -> torch.Tensor:
        """Causal attention of each query on its sequence's stored context; returns [T, H, D]. Scale is D ** -0.5."""
        ...
