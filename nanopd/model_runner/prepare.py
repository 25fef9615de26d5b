"""From a batch to tensors: one packed int32 buffer per step, so that a GPU step costs one host-to-device copy.

::

    token_ids T | previous_rows T | positions T | slots T | cu_q_lens B+1 | context_lens B | block_tables B*M | sample_rows R

Shape legend: T tokens, B sequences, M blocks per row, R sampled rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from nanopd.attention import AttentionBatch
from nanopd.batch import Batch


@dataclass(frozen=True, slots=True)
class StepTensors:
    """A step on its device."""

    token_ids_T: torch.Tensor  # int64
    previous_rows_T: (
        torch.Tensor | None
    )  # int64, -1 where token_ids holds the id; None: no token comes from the step before
    attention: AttentionBatch
    sample_rows_R: torch.Tensor  # int64: which tokens' hidden states are sampled from


def prepare(batch: Batch, block_size: int, device: torch.device) -> StepTensors:
    """Builds the step's tensors; on a GPU the copy is asynchronous."""
    slices = batch.slices
    q_lens = [s.num_tokens for s in slices]
    num_seqs, num_tokens = len(slices), sum(q_lens)
    ends = np.array([s.end for s in slices], dtype=np.int32)
    lens = np.array(q_lens, dtype=np.int32)
    tables = _block_tables(batch, ends, block_size)
    cu_q_lens = np.zeros(num_seqs + 1, dtype=np.int32)
    np.cumsum(lens, out=cu_q_lens[1:])
    seq_of_token = np.repeat(np.arange(num_seqs, dtype=np.int32), lens)
    positions = np.arange(num_tokens, dtype=np.int32) + np.repeat(ends - cu_q_lens[1:], lens)
    slots = tables[seq_of_token, positions // block_size] * block_size + positions % block_size
    token_ids, previous_rows = _token_ids(batch, cu_q_lens)
    pieces = (
        token_ids,
        token_ids[:0] if previous_rows is None else previous_rows,
        positions,
        slots,
        cu_q_lens,
        ends,
        tables.ravel(),
        _sample_rows(batch, cu_q_lens),
    )
    ids_T, previous_T, positions_T, slots_T, cu, contexts, tables_flat, rows_R = _to_device(pieces, device)
    attention = AttentionBatch(
        positions_T=positions_T.long(),
        slot_mapping_T=slots_T.long(),
        block_tables_BM=tables_flat.view(num_seqs, -1),
        context_lens_B=contexts,
        cu_q_lens_B1=cu,
        num_decodes=batch.num_decodes,
        q_lens=tuple(q_lens),
        context_lens=tuple(ends.tolist()),
        block_size=block_size,
    )
    return StepTensors(ids_T.long(), None if previous_rows is None else previous_T.long(), attention, rows_R.long())


def _block_tables(batch: Batch, ends: np.ndarray, block_size: int) -> np.ndarray:
    """int32 [B, M], zero-padded: only blocks that this step can touch."""
    num_blocks = -(-ends // block_size)
    tables = np.zeros((len(ends), int(num_blocks.max())), dtype=np.int32)
    for row, (s, count) in enumerate(zip(batch.slices, num_blocks.tolist(), strict=True)):
        tables[row, :count] = np.frombuffer(s.block_table, dtype=np.int32, count=count)
    return tables


def _token_ids(batch: Batch, cu_q_lens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    token_ids = np.zeros(cu_q_lens[-1], dtype=np.int32)
    previous_rows = None
    for s, start in zip(batch.slices, cu_q_lens.tolist(), strict=False):
        if s.previous_row is None:
            token_ids[start : start + s.num_tokens] = s.token_ids
            continue
        if previous_rows is None:
            previous_rows = np.full(len(token_ids), -1, dtype=np.int32)
        previous_rows[start] = s.previous_row
    return token_ids, previous_rows


def _sample_rows(batch: Batch, cu_q_lens: np.ndarray) -> np.ndarray:
    """int32 [R]: the last ``num_rows`` tokens of each slice."""
    num_rows = np.array([s.num_rows for s in batch.slices], dtype=np.int32)
    ends = np.cumsum(num_rows, dtype=np.int32)
    return np.arange(ends[-1], dtype=np.int32) + np.repeat(cu_q_lens[1:] - ends, num_rows)


def _to_device(pieces: tuple[np.ndarray, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
    sizes = [piece.size for piece in pieces]
    if device.type == "cpu":
        return torch.from_numpy(np.concatenate(pieces)).split(sizes)
    staging = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=True)
    np.concatenate(pieces, out=staging.numpy())
    return staging.to(device, non_blocking=True).split(sizes)
