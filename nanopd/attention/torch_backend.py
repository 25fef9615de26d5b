"""The reference backend: plain torch on any device, exact for every chunking. The CPU's backend and the CUDA kernels' oracle.

KV is gathered by rows of one head in one block (S * D contiguous values), so that a single index_select brings K and V of a group of sequences
straight into the layout attention wants. What the layers of a step share (indices, masks, cosines) is planned once per step.

Shape legend as in ``backend``; additionally G = H / K query heads per kv head, C context length (padded to whole blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nanopd.attention.backend import AttentionBatch, HeadNorms
from nanopd.attention.rotation import rotate_, rotation_factors

_FREE_PADDING = 64  # tokens: below this a second call costs more than the padding


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences attended in one call: decodes of like context length together, each prefill chunk by itself."""

    tokens: torch.Tensor | None  # int64; None: the whole step
    num_tokens: int
    num_seqs: int
    context_len: int  # longest
    kv_rows: torch.Tensor  # [2 * num_seqs * K * blocks] row numbers into the layer seen as [num_blocks * 2 * K, S * D]
    mask: torch.Tensor | None  # additive, broadcast to [num_seqs, heads, queries, C]
    is_causal: bool  # a whole prompt from position 0: no mask needed


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the layers of one step share."""

    cos_T1D: torch.Tensor
    sin_T1D: torch.Tensor
    store_tokens: torch.Tensor | None  # indices of tokens that are stored; None: all
    store_rows: torch.Tensor  # [stored tokens * 2K] row numbers into the layer seen as [num_blocks * 2 * K * S, D]
    groups: tuple[_Group, ...]


class TorchAttention:
    """Implements AttentionBackend. Keeps the plan of the batch it saw last."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self._planned: tuple[AttentionBatch, _Plan] | None = None

    def store(
        self,
        qkv_TX: torch.Tensor,
        cos_sin_PD: torch.Tensor,
        norms: HeadNorms | None,
        kv_layer: torch.Tensor,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        if self._planned is None or self._planned[0] is not batch:
            self._planned = (batch, self._plan(cos_sin_PD, qkv_TX.dtype, batch))
        plan = self._planned[1]
        H, K, D = self.num_heads, self.num_kv_heads, self.head_dim
        heads_TND = qkv_TX.view(-1, H + 2 * K, D)
        if norms is not None:
            q, k = heads_TND[:, :H], heads_TND[:, H : H + K]
            q.copy_(F.rms_norm(q, (D,), norms.q_weight_D, norms.eps))
            k.copy_(F.rms_norm(k, (D,), norms.k_weight_D, norms.eps))
        rotate_(heads_TND[:, : H + K], plan.cos_T1D, plan.sin_T1D)
        kv = heads_TND[:, H:] if plan.store_tokens is None else heads_TND[plan.store_tokens, H:]
        kv_layer.view(-1, D).index_copy_(0, plan.store_rows, kv.reshape(-1, D))
        return heads_TND[:, :H]

    def attend(self, q_THD: torch.Tensor, kv_layer: torch.Tensor, batch: AttentionBatch) -> torch.Tensor:
        assert self._planned is not None and self._planned[0] is batch, "store comes before attend"
        out_THD = None
        for group in self._planned[1].groups:
            if group.tokens is None:
                return self._attend_group(q_THD, kv_layer, group)
            if out_THD is None:
                out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
            out_THD.index_copy_(
                0, group.tokens, self._attend_group(q_THD.index_select(0, group.tokens), kv_layer, group)
            )
        assert out_THD is not None, "a step has at least one sequence"
        return out_THD

    def _attend_group(self, q_THD: torch.Tensor, kv_layer: torch.Tensor, group: _Group) -> torch.Tensor:
        B, K, D = group.num_seqs, self.num_kv_heads, self.head_dim
        rows = kv_layer.view(-1, kv_layer.shape[3] * D).index_select(0, group.kv_rows)
        k, v = rows.view(2, B, K, -1, D).unbind()
        if group.mask is None:
            k, v = k[:, :, : group.context_len], v[:, :, : group.context_len]
        if group.num_tokens == B:
            # One query per sequence: the G query heads of a kv head take the place of queries, so K and V are read once for all of them.
            q = q_THD.reshape(B, K, -1, D)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask).reshape(q_THD.shape)
        q = q_THD.transpose(0, 1).unsqueeze(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask, is_causal=group.is_causal, enable_gqa=True)
        return out.squeeze(0).transpose(0, 1)

    def _plan(self, cos_sin_PD: torch.Tensor, dtype: torch.dtype, batch: AttentionBatch) -> _Plan:
        cos, sin = rotation_factors(cos_sin_PD.index_select(0, batch.positions_T))
        slots, tokens = batch.slot_mapping_T, None
        if bool((slots < 0).any()):
            tokens = (slots >= 0).nonzero().squeeze(1)
            slots = slots[tokens]
        S, K2 = batch.block_size, 2 * self.num_kv_heads
        blocks, offsets = slots // S, slots % S
        head_rows = torch.arange(K2, device=slots.device) * S
        store_rows = ((blocks * (K2 * S) + offsets).unsqueeze(1) + head_rows).flatten()
        return _Plan(cos, sin, tokens, store_rows, self._groups(batch, dtype))

    def _groups(self, batch: AttentionBatch, dtype: torch.dtype) -> tuple[_Group, ...]:
        num_seqs, device = len(batch.q_lens), batch.positions_T.device
        parts = _alike(batch.context_lens[: batch.num_decodes])
        if len(parts) == 1 and num_seqs == batch.num_decodes:
            return (self._decode_group(batch, None, list(range(num_seqs)), dtype),)
        if num_seqs == 1:
            return (self._prefill_group(batch, 0, None, dtype),)
        groups = [self._decode_group(batch, torch.tensor(part, device=device), part, dtype) for part in parts]
        first_token = batch.num_decodes
        for index in range(batch.num_decodes, num_seqs):
            end = first_token + batch.q_lens[index]
            groups.append(self._prefill_group(batch, index, torch.arange(first_token, end, device=device), dtype))
            first_token = end
        return tuple(groups)

    def _decode_group(
        self, batch: AttentionBatch, tokens: torch.Tensor | None, rows: list[int], dtype: torch.dtype
    ) -> _Group:
        longest = max(1, *(batch.context_lens[row] for row in rows))
        contexts, tables = batch.context_lens_B, batch.block_tables_BM
        if tokens is not None:
            contexts, tables = contexts[tokens], tables[tokens]
        mask = None
        if any(batch.context_lens[row] < longest for row in rows):
            padded = -(-longest // batch.block_size) * batch.block_size
            keys = torch.arange(padded, device=contexts.device)
            # Padding rows (context 0) keep key 0, so that their unused result is not NaN.
            mask = _additive(keys < contexts[:, None].clamp(min=1), dtype)[:, None, None, :]
        return _Group(
            tokens, len(rows), len(rows), longest, self._kv_rows(tables, longest, batch.block_size), mask, False
        )

    def _prefill_group(
        self, batch: AttentionBatch, index: int, tokens: torch.Tensor | None, dtype: torch.dtype
    ) -> _Group:
        num_tokens, context_len = batch.q_lens[index], batch.context_lens[index]
        mask = None
        if 1 < num_tokens < context_len:
            padded = -(-context_len // batch.block_size) * batch.block_size
            queries = torch.arange(context_len - num_tokens, context_len, device=batch.positions_T.device)
            mask = _additive(torch.arange(padded, device=queries.device) <= queries[:, None], dtype)
        rows = self._kv_rows(batch.block_tables_BM[index : index + 1], context_len, batch.block_size)
        return _Group(tokens, num_tokens, 1, context_len, rows, mask, num_tokens == context_len)

    def _kv_rows(self, tables_BM: torch.Tensor, context_len: int, block_size: int) -> torch.Tensor:
        """Rows in the order [2, B, K, blocks]."""
        num_blocks = -(-context_len // block_size)
        K = self.num_kv_heads
        heads = torch.arange(2 * K, device=tables_BM.device).view(2, 1, K, 1)
        return (tables_BM[:, None, :num_blocks].long() * (2 * K) + heads).flatten()


def _alike(context_lens: Sequence[int]) -> list[list[int]]:
    """Row numbers grouped so that the longest context of a group is at most half as long again as its shortest (or a few blocks longer).

    A group is padded to its longest context: one long sequence among short ones would have every one of them gathered at its length.
    """
    groups: list[list[int]] = []
    bound = -1.0
    for row in sorted(range(len(context_lens)), key=context_lens.__getitem__):
        if context_lens[row] > bound:
            groups.append([])
            bound = max(1.5 * context_lens[row], context_lens[row] + _FREE_PADDING)
        groups[-1].append(row)
    return groups


def _additive(keep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where ``keep``, minus infinity elsewhere."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill_(~keep, float("-inf"))
