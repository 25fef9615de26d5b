"""The static inputs of captured decode steps: one int32 buffer on the device, filled by one copy a step.

For a graph of N rows the buffer is laid out as

::

    sampled R | slots 2N (int64) | sources N | token_ids N | positions N | context_lens N | block tables n * m, compact

``sampled`` stays on the device: the ids drawn by the step before. ``sources`` says where in the buffer a row's input id lies, in ``sampled`` or in
``token_ids``. Only the n rows and m blocks that a batch has are copied as block tables, then spread to rows of fixed width. Rows beyond the batch
have slot -1 and context 0: nothing is stored or read for them.
"""

import numpy as np
import torch

from nanopd.attention import AttentionBatch
from nanopd.batch import Batch

_HEAD = 6  # int32 values a row before the block tables


class DecodeInputs:
    """One buffer for all batch sizes; a stream's steps use it one after the other."""

    def __init__(
        self, max_rows: int, max_sampled: int, max_model_len: int, block_size: int, device: torch.device
    ) -> None:
        max_blocks = -(-max_model_len // block_size)
        self._block_size, self._max_model_len = block_size, max_model_len
        self._num_sampled = max_sampled + max_sampled % 2  # slots must start at a multiple of 8 bytes
        self._buffer = torch.zeros(
            self._num_sampled + max_rows * (_HEAD + max_blocks), dtype=torch.int32, device=device
        )
        self._tables_BM = torch.zeros(max_rows, max_blocks, dtype=torch.int32, device=device)
        self.sampled_ids_R = self._buffer[: self._num_sampled]

    def views(self, num_rows: int) -> tuple[torch.Tensor, AttentionBatch]:
        """What a step of ``num_rows`` rows reads: where its input ids lie (for ``input_ids``), and its geometry."""
        head = self._buffer[self._num_sampled :][: _HEAD * num_rows]
        slots = head[: 2 * num_rows].view(torch.int64)
        sources, _, positions, contexts = head[2 * num_rows :].view(4, num_rows)
        geometry = AttentionBatch(
            positions_T=positions,
            slot_mapping_T=slots,
            block_tables_BM=self._tables_BM[:num_rows],
            context_lens_B=contexts,
            cu_q_lens_B1=torch.arange(num_rows + 1, dtype=torch.int32, device=head.device),
            num_decodes=num_rows,
            q_lens=(1,) * num_rows,
            context_lens=(self._max_model_len,) * num_rows,
            block_size=self._block_size,
        )
        return sources, geometry

    def input_ids(self, sources: torch.Tensor) -> torch.Tensor:
        """int32 [N]"""
        return self._buffer.index_select(0, sources)

    def clear(self, num_rows: int) -> None:
        """Makes all rows padding."""
        head = self._buffer[self._num_sampled :][: _HEAD * num_rows]
        head[: 2 * num_rows] = -1
        head[2 * num_rows :] = 0

    def load(self, batch: Batch, num_rows: int) -> None:
        """Fills the inputs of a step of ``num_rows`` rows from a batch of as many decodes or fewer; asynchronous on a GPU."""
        num_seqs = len(batch.slices)
        num_blocks = max(s.start for s in batch.slices) // self._block_size + 1
        staging = torch.empty(
            _HEAD * num_rows + num_seqs * num_blocks, dtype=torch.int32, pin_memory=self._buffer.is_cuda
        )
        host = staging.numpy()
        tables = host[_HEAD * num_rows :].reshape(num_seqs, num_blocks)
        for row, s in enumerate(batch.slices):
            count = min(len(s.block_table), num_blocks)
            tables[row, :count] = np.frombuffer(s.block_table, dtype=np.int32, count=count)
            tables[row, count:] = 0
        self._fill_head(host[: _HEAD * num_rows], batch, tables)
        target = self._buffer[self._num_sampled :][: len(staging)]
        target.copy_(staging, non_blocking=True)
        compact = target[_HEAD * num_rows :].view(num_seqs, num_blocks)
        self._tables_BM[:num_seqs, :num_blocks].copy_(compact)

    def _fill_head(self, head: np.ndarray, batch: Batch, tables: np.ndarray) -> None:
        slices, n, num_rows = batch.slices, len(batch.slices), len(head) // _HEAD
        slots = head[: 2 * num_rows].view(np.int64)
        sources, token_ids, positions, contexts = head[2 * num_rows :].reshape(4, num_rows)
        starts = np.array([s.start for s in slices], dtype=np.int64)
        first_id = self._num_sampled + 3 * num_rows
        slots[:n] = (
            tables[np.arange(n), starts // self._block_size].astype(np.int64) * self._block_size
            + starts % self._block_size
        )
        sources[:n] = [first_id + row if s.previous_row is None else s.previous_row for row, s in enumerate(slices)]
        token_ids[:n] = [s.token_ids[0] if s.previous_row is None else 0 for s in slices]
        positions[:n], contexts[:n] = starts, starts + 1
        slots[n:] = -1
        sources[n:] = token_ids[n:] = positions[n:] = contexts[n:] = 0
