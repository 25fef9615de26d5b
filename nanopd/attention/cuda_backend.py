"""The CUDA backend: our paged kernels.

No host synchronisation: lengths are read on the device, within bounds that the batch states on the host, so that graphs capture it.
"""

from dataclasses import dataclass

import torch

from nanopd.attention.backend import AttentionBatch, HeadNorms
from nanopd.kernels.jit import supports_pdl
from nanopd.kernels.paged_decode import DecodeWorkspace, paged_decode
from nanopd.kernels.paged_prefill import PrefillWorkspace, paged_prefill
from nanopd.kernels.rope_store import rope_store


@dataclass(frozen=True, slots=True)
class _Parts:
    """A step's geometry, cut into decodes and prompts once for all layers."""

    num_decodes: int
    decode_tables_BM: torch.Tensor
    decode_lens_B: torch.Tensor
    num_prompts: int
    prompt_tables_BM: torch.Tensor
    prompt_cu_q_lens_B1: (
        torch.Tensor
    )  # counts rows of the whole step, so q and out stay whole and only sequences are cut off
    prompt_lens_B: torch.Tensor
    max_q_len: int
    max_context_len: int

    @classmethod
    def of(cls, batch: AttentionBatch) -> "_Parts":
        first = batch.num_decodes
        return cls(
            first,
            batch.block_tables_BM[:first],
            batch.context_lens_B[:first],
            len(batch.q_lens) - first,
            batch.block_tables_BM[first:],
            batch.cu_q_lens_B1[first:],
            batch.context_lens_B[first:],
            max(batch.q_lens[first:], default=0),
            max(batch.context_lens[first:], default=0),
        )


class CudaAttention:
    """Implements AttentionBackend. Its workspaces serve one stream, and another one beside it."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device) -> None:
        self.num_heads, self.head_dim = num_heads, head_dim
        self._scale = head_dim**-0.5
        self._pdl = supports_pdl(device)
        self._decode_workspace = DecodeWorkspace.allocate(num_heads // num_kv_heads, head_dim, device)
        self._prefill_workspace = PrefillWorkspace.allocate(head_dim, device)
        self._side = torch.cuda.Stream(device)
        self._cut: tuple[AttentionBatch, _Parts] | None = None

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
        if self._cut is None or self._cut[0] is not batch:
            self._cut = (batch, _Parts.of(batch))
        parts = self._cut[1]
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        if not parts.num_prompts:
            self._attend_decodes(q_THD, kv_layer, parts, out_THD)
        elif not parts.num_decodes:
            self._attend_prompts(q_THD, kv_layer, parts, out_THD)
        else:
            # Neither needs the other: prompts begin where decodes leave multiprocessors idle.
            main = torch.cuda.current_stream(q_THD.device)
            self._side.wait_stream(main)
            self._attend_decodes(q_THD, kv_layer, parts, out_THD)
            with torch.cuda.stream(self._side):
                self._attend_prompts(q_THD, kv_layer, parts, out_THD)
            main.wait_stream(self._side)
        return out_THD

    def _attend_decodes(
        self, q_THD: torch.Tensor, kv_layer: torch.Tensor, parts: _Parts, out_THD: torch.Tensor
    ) -> None:
        paged_decode(
            q_THD[: parts.num_decodes],
            kv_layer,
            parts.decode_tables_BM,
            parts.decode_lens_B,
            out=out_THD[: parts.num_decodes],
            workspace=self._decode_workspace,
            pdl=self._pdl,
        )

    def _attend_prompts(
        self, q_THD: torch.Tensor, kv_layer: torch.Tensor, parts: _Parts, out_THD: torch.Tensor
    ) -> None:
        paged_prefill(
            q_THD,
            kv_layer,
            parts.prompt_tables_BM,
            parts.prompt_cu_q_lens_B1,
            parts.prompt_lens_B,
            max_q_len=parts.max_q_len,
            max_context_len=parts.max_context_len,
            scale=self._scale,
            out=out_THD,
            workspace=self._prefill_workspace,
        )
