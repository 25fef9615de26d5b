"""Drafts in a step: fed behind the last known token, verified by what the model draws after each position, rolled back to what holds.

::

    fed      t0  d0  d1  d2      t0: the last token known; d: the draft
    drawn    d0  d1  x   y       the model agrees with d0 and d1; x takes the place of d2, and y is worth nothing
    kept     d0  d1  x           one to four tokens for one step; the KV of d2 is forgotten
"""

from collections.abc import Sequence as SequenceOf

from nanopd.batch import Batch, SeqSlice
from nanopd.block_manager import BlockManager
from nanopd.decoding import DraftContext, GuessPrices, GuessRecord, draft_length
from nanopd.scheduler.load import Counters
from nanopd.scheduler.plan import StepPlan
from nanopd.scheduler.sequence import Sequence
from nanopd.scheduler.slices import verify_slice


class Speculation:
    """A scheduler's part in speculative decoding."""

    def __init__(self, blocks: BlockManager, counters: Counters, adapts: bool) -> None:
        self._blocks = blocks
        self._counters = counters
        self._prices = GuessPrices() if adapts else None  # None: a guess may be as long as the drafter makes it
        self._most: dict[str, int] = {}  # by seq_id: tokens to be guessed for the step in hand
        self._began: float | None = None  # when the guessing for it did
        self._num_drafted_before = self._num_accepted_before = 0

    def contexts(self, running: SequenceOf[Sequence], now: float) -> list[DraftContext]:
        """Those of which every token is known and all but the last have KV, with room for a guess that pays. A step begins with this."""
        ready = [seq for seq in running if not seq.num_pending and len(seq.token_ids) - seq.num_computed_tokens == 1]
        self._most = self._draft_lengths(ready)
        self._began = now
        self._num_drafted_before, self._num_accepted_before = self._totals
        return [
            DraftContext(seq.seq_id, seq.request, seq.token_ids, seq.num_prompt_tokens, self._most[seq.seq_id])
            for seq in ready
            if self._most[seq.seq_id] > 0
        ]

    def _draft_lengths(self, ready: SequenceOf[Sequence]) -> dict[str, int]:
        if self._prices is None:
            return {seq.seq_id: seq.max_draft_tokens for seq in ready}
        if self._prices.wants_plain_step:
            return dict.fromkeys((seq.seq_id for seq in ready), 0)
        prices, fresh, lengths = self._prices.now(), GuessRecord(), {}
        for seq in ready:
            chances = (seq.guesses or fresh).chances(len(seq.token_ids))
            lengths[seq.seq_id] = min(seq.max_draft_tokens, draft_length(chances, prices, len(ready)))
        return lengths

    @property
    def _totals(self) -> tuple[int, int]:
        return self._counters.num_draft_tokens, self._counters.num_accepted_tokens

    def plan(self, seq: Sequence, draft: SequenceOf[int], plan: StepPlan, num_running: int) -> bool:
        """Adds the draft, or as much as fits, to the step; False if the sequence is to decode without.

        Every running sequence keeps a token of the budget and a block, and prompts keep half of what is left: nobody is preempted for a guess,
        nobody waits for its end.
        """
        draft = draft[: max(min(self._most.get(seq.seq_id, 0), (plan.budget - num_running) // 2), 0)]
        start = seq.num_computed_tokens
        end = start + 1 + len(draft)
        assert seq.table is not None
        if not draft or seq.num_pending or not self._blocks.can_write(seq.table, start, end, num_running):
            return False
        plan.copies += self._blocks.prepare_write(seq.table, start, end)
        plan.add(seq, verify_slice(seq, draft))
        return True

    def settle(self, seq: Sequence, piece: SeqSlice, drawn: SequenceOf[int]) -> int:
        """Rolls a sequence back to what holds of a verified draft; returns how many of the ``drawn`` tokens do.

        All but the last of them are then in ``seq.token_ids``: their KV was stored while they were a guess.
        """
        draft = piece.token_ids[1:]
        count = num_right(draft, drawn, seq.stop_ids)
        num_accepted = (
            count if count <= len(draft) and drawn[count - 1] == draft[count - 1] else count - 1
        )  # it ends at a stop token
        for counter in (seq, self._counters):
            counter.num_draft_tokens += len(draft)
            counter.num_accepted_tokens += num_accepted
        if seq.guesses is None:
            seq.guesses = GuessRecord()
        seq.guesses.observe(num_accepted, len(draft), len(seq.token_ids))
        seq.token_ids.extend(drawn[: count - 1])
        seq.num_computed_tokens = piece.start + count
        assert seq.table is not None
        self._blocks.truncate(seq.table, seq.num_computed_tokens)
        return count

    def learn(self, batch: Batch, now: float) -> None:
        """A step that was guessed for has ended: what did it cost? One with a prompt in it does not tell."""
        began, self._began = self._began, None
        if self._prices is None or began is None:
            return
        num_rows = sum(piece.num_tokens for piece in batch.slices)
        if num_rows == sum(piece.num_rows for piece in batch.slices):  # every row draws a token
            num_drafted, num_accepted = self._totals
            num_tokens = len(batch.slices) + num_accepted - self._num_accepted_before
            self._prices.observe(num_rows, num_tokens, now - began, num_drafted > self._num_drafted_before)


def num_right(draft: SequenceOf[int], drawn: SequenceOf[int], stop_ids: frozenset[int]) -> int:
    """How many of the ``drawn`` tokens hold: those the draft foretold and the first it did not. Nothing follows a stop token."""
    for index, token_id in enumerate(draft):
        if drawn[index] != token_id or token_id in stop_ids:
            return index + 1
    return len(draft) + 1
