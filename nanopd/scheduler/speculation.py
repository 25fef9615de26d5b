"""Drafts in a step: fed behind the last known token, verified by what the model draws after each position, rolled back to what holds.

::

    fed      t0  d0  d1  d2      t0: the last token known; d: the draft
    drawn    d0  d1  x   y       the model agrees with d0 and d1; x takes the place of d2, and y is worth nothing
    kept     d0  d1  x           one to four tokens for one step; the KV of d2 is forgotten
"""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from nanopd.batch import SeqSlice
from nanopd.block_manager import BlockManager
from nanopd.decoding import DraftContext
from nanopd.scheduler.load import Counters
from nanopd.scheduler.plan import StepPlan
from nanopd.scheduler.sequence import Sequence
from nanopd.scheduler.slices import verify_slice


class Speculation:
    """A scheduler's part in speculative decoding."""

    def __init__(self, blocks: BlockManager, counters: Counters) -> None:
        self._blocks = blocks
        self._counters = counters

    def contexts(self, running: Iterable[Sequence]) -> list[DraftContext]:
        """Those of which every token is known and all but the last have KV, with room for a guess."""
        return [
            DraftContext(seq.seq_id, seq.request, seq.token_ids, seq.num_prompt_tokens, seq.max_draft_tokens)
            for seq in running
            if not seq.num_pending and len(seq.token_ids) - seq.num_computed_tokens == 1 and seq.max_draft_tokens > 0
        ]

    def plan(self, seq: Sequence, draft: SequenceOf[int], plan: StepPlan, num_running: int) -> bool:
        """Adds the draft, or as much as fits, to the step; False if the sequence is to decode without.

        Every running sequence keeps a token of the budget and a block, and prompts keep half of what is left: nobody is preempted for a guess,
        nobody waits for its end.
        """
        draft = draft[: max(min(seq.max_draft_tokens, (plan.budget - num_running) // 2), 0)]
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
        seq.token_ids.extend(drawn[: count - 1])
        seq.num_computed_tokens = piece.start + count
        assert seq.table is not None
        self._blocks.truncate(seq.table, seq.num_computed_tokens)
        return count


def num_right(draft: SequenceOf[int], drawn: SequenceOf[int], stop_ids: frozenset[int]) -> int:
    """How many of the ``drawn`` tokens hold: those the draft foretold and the first it did not. Nothing follows a stop token."""
    for index, token_id in enumerate(draft):
        if drawn[index] != token_id or token_id in stop_ids:
            return index + 1
    return len(draft) + 1
