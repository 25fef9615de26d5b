"""The CUDA backend: our paged kernels. No host synchronisation and, for pure decode steps, work fixed by shapes, so that graphs capture it."""

import torch

from nanopd.attention.backend import AttentionBatch, HeadNorms
from nanopd.kernels.jit import supports_pdl
from nanopd.kernels.paged_decode import DecodeWorkspace, paged_decode
from nanopd.kernels.paged_prefill import PrefillWorkspace, paged_prefill
from nanopd.kernels.rope_store import rope_store


class CudaAttention:
    """Implements AttentionBackend. Its workspaces serve one stream."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device) -> None:
        self.num_heads, self.head_dim = num_heads, head_dim
        self._scale = head_dim**-0.5
        self._pdl = supports_pdl(device)
        self._decode_workspace = DecodeWorkspace.allocate(num_heads // num_kv_heads, head_dim, device)
        self._prefill_workspace = PrefillWorkspace.allocate(head_dim, device)

    def store(
        self,
        qkv_TX: torch.Tensor,
        cos_sin_PD: torch.Tensor,
        norms: HeadNorms | None,
        kv_layer: torch.Tensor,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        H, D = self.num_heads, self.head_dim
        return rope_store(
            qkv_TX,
            batch.positions_T,
            cos_sin_PD,
            kv_layer,
            batch.slot_mapping_T,
            H,
            norms.q_weight_D if norms else None,
            norms.k_weight_D if norms else None,
            norms.eps if norms else 0.0,
            out=qkv_TX.view(qkv_TX.shape[0], -1, D)[:, :H],  # q is rotated where it lies
            pdl=self._pdl,
        )

    def attend(self, q_THD: torch.Tensor, kv_layer: torch.Tensor, batch: AttentionBatch) -> torch.Tensor:
        decodes = batch.num_decodes
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        if decodes:
            paged_decode(
                q_THD[:decodes],
                kv_layer,
                batch.block_tables_BM[:decodes],
                batch.context_lens_B[:decodes],
                out=out_THD[:decodes],
                workspace=self._decode_workspace,
                pdl=self._pdl,
            )
        if decodes < len(batch.q_lens):
            # cu_q_lens counts rows of the whole step, so q and out stay whole and only sequences are cut off.
            paged_prefill(
                q_THD,
                kv_layer,
                batch.block_tables_BM[decodes:],
                batch.cu_q_lens_B1[decodes:],
                batch.context_lens_B[decodes:],
                max_q_len=max(batch.q_lens[decodes:]),
                max_context_len=max(batch.context_lens[decodes:]),
                scale=self._scale,
                out=out_THD,
                workspace=self._prefill_workspace,
            )
        return out_THD
