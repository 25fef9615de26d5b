"""A step being put together."""

from nanopd.batch import Batch, SeqSlice
from nanopd.scheduler.sequence import Sequence


class StepPlan:
    """Collects slices within a token budget. One-token slices go first: the shape decode kernels serve."""

    __slots__ = ("budget", "copies", "has_preempted", "prompts", "_decodes", "_chunks")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.copies: list[tuple[int, int]] = []
        self.has_preempted = False
        self.prompts: list[Sequence] = []  # that have a chunk in this step
        self._decodes: list[tuple[Sequence, SeqSlice]] = []
        self._chunks: list[tuple[Sequence, SeqSlice]] = []

    def add(self, seq: Sequence, piece: SeqSlice) -> None:
        self.budget -= piece.num_tokens
        is_decode = piece.num_tokens == 1 and piece.start > 0
        (self._decodes if is_decode else self._chunks).append((seq, piece))

    def seal(self, step_id: int) -> "Step | None":
        """The finished step, or None if there is nothing to do; its sequences now count its tokens as computed."""
        pieces = self._decodes + self._chunks
        if not pieces:
            assert not self.copies, "blocks were copied for nobody"
            return None
        row = 0
        for seq, piece in pieces:
            seq.num_computed_tokens = piece.start + piece.num_tokens - len(piece.verify)  # a draft counts once accepted
            seq.num_in_flight += 1
            if piece.sample is not None:
                seq.num_pending += 1
                seq.pending_step, seq.pending_row = step_id, row
                row += 1 + len(piece.verify)
        seqs, slices = zip(*pieces, strict=True)
        return Step(seqs, Batch(step_id, slices, tuple(self.copies)))


class Step:
    """A submitted step: its batch, and the sequences behind the slices."""

    __slots__ = ("seqs", "batch")

    def __init__(self, seqs: tuple[Sequence, ...], batch: Batch) -> None:
        self.seqs = seqs
        self.batch = batch
