"""Many steps at once, for simulations: what ``schedule`` and ``update`` would do step by step while the same sequences only decode.

With ``d`` steps in flight, step ``i`` has landed (its KV is computed, its token known) before step ``i + d`` is scheduled, so blocks change hands in
this order, and this is the order in which ``advance`` moves them::

    land 1, schedule 1 + d, land 2, schedule 2 + d, ...
"""

from array import array
from collections import deque

from nanopd.batch import Batch, SeqSlice
from nanopd.block_manager import BlockManager
from nanopd.scheduler.load import Counters
from nanopd.scheduler.plan import Step
from nanopd.scheduler.roster import Roster
from nanopd.scheduler.sequence import LegKind, Sequence

_REGISTER, _TAKE = 0, 1


class PlainDecodes:
    """The sequences that decode, and the steps in flight with them."""

    __slots__ = ("seqs", "_in_flight", "_counters", "_blocks")

    def __init__(self, in_flight: deque[Step], counters: Counters, blocks: BlockManager) -> None:
        """See ``plain_decodes``."""
        self.seqs = in_flight[0].seqs
        self._in_flight = in_flight
        self._counters = counters
        self._blocks = blocks

    @property
    def first_batch(self) -> Batch:
        """The oldest step in flight."""
        return self._in_flight[0].batch

    @property
    def max_steps(self) -> int:
        """How many steps surely find the blocks they need."""
        return max(0, (self._blocks.pool.num_available // len(self.seqs) - 1) * self._blocks.block_size)

    def advance(self, num_steps: int, token_id: int) -> list[Batch]:
        """Lands ``num_steps`` steps, each of which has sampled ``token_id`` for every sequence, and schedules as many.

        Returns what is in flight then.
        """
        tokens = array("i", [token_id]) * num_steps
        for seq in self.seqs:
            seq.token_ids.extend(tokens)
        self._move_blocks(num_steps)
        for seq in self.seqs:
            seq.num_computed_tokens += num_steps
            seq.pending_step += num_steps
        self._counters.num_steps += num_steps
        self._blocks.pool.skip_fences(num_steps)
        for _ in range(len(self._in_flight)):
            self._in_flight.append(_shifted(self._in_flight.popleft(), num_steps, token_id))
        return [step.batch for step in self._in_flight]

    def _move_blocks(self, num_steps: int) -> None:
        """Registers blocks that fill up and takes new ones, in the order of the steps and, within a step, of the sequences."""
        blocks, size, depth = self._blocks, self._blocks.block_size, len(self._in_flight)
        moves: list[
            tuple[int, int, int, int]
        ] = []  # (step that lands before it, what, index of the sequence, position)
        for index, piece in enumerate(self.first_batch.slices):
            start = piece.start
            for landed in range(size - start % size, num_steps + 1, size):
                moves.append((landed, _REGISTER, index, start + landed))
            ahead = start + depth - 1  # position that step 1 + depth feeds, less one
            for landed in range(size - ahead % size, num_steps + 1, size):
                moves.append((landed, _TAKE, index, ahead + landed))
        moves.sort()
        for _landed, what, index, position in moves:
            seq = self.seqs[index]
            assert seq.table is not None
            if what == _REGISTER:
                blocks.register(seq.table, seq.chain, seq.token_ids, position)
            else:
                copies = blocks.prepare_write(seq.table, position, position + 1)
                assert not copies, "a plain decode shares the block it writes"


def plain_decodes(
    roster: Roster, in_flight: deque[Step], counters: Counters, blocks: BlockManager, max_num_seqs: int
) -> PlainDecodes | None:
    """Set if the steps in flight, and all that follow until a sequence ends or a message comes, decode what runs and do nothing else."""
    running = roster.running
    if not running or not in_flight or blocks.pool.num_fenced:
        return None
    if len(roster.waiting) and roster.num_active < max_num_seqs:
        return None  # it may be admitted when blocks of others become known
    for step in in_flight:
        if len(step.seqs) != len(running) or step.batch.block_copies:
            return None
        if any(a is not b for a, b in zip(step.seqs, running, strict=True)):
            return None
    slices = in_flight[0].batch.slices
    is_plain = all(_decodes_on(seq, piece) for seq, piece in zip(running, slices, strict=True))
    return PlainDecodes(in_flight, counters, blocks) if is_plain else None


def _decodes_on(seq: Sequence, piece: SeqSlice) -> bool:
    """Whether a sequence has told its first token, and goes on greedily."""
    return (
        piece.num_tokens == 1
        and piece.start >= seq.num_prompt_tokens + seq.num_initial_outputs
        and seq.kind is LegKind.LOCAL
        and seq.greedy_spec is not None
        and seq.request.sampling.logprobs is None
    )


def _shifted(step: Step, num_steps: int, token_id: int) -> Step:
    """The same step, ``num_steps`` later."""
    slices = tuple(
        SeqSlice(
            piece.request_id,
            (token_id,) if piece.token_ids else (),
            1,
            piece.start + num_steps,
            piece.block_table,
            piece.previous_row,
            piece.sample,
        )
        for piece in step.batch.slices
    )
    return Step(step.seqs, Batch(step.batch.step_id + num_steps, slices))
