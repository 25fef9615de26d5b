"""A step being put together."""

from nanopd.batch import Batch, SeqSlice
from nanopd.scheduler.sequence import Sequence

_TILE_TOKENS = (
    128  # rows of the tiles that a GPU multiplies: a step that reaches a few rows into one pays for all of it
)
_MOST_SHORTENED = 4  # a chunk gives up at most this part of itself to end the step on an edge


def tokens_beside(num_before: int, num_tokens: int, chunk: int) -> int:
    """How many of ``num_tokens`` a step takes beside those it has, of prompts that go on after it; ``chunk``: of the one that is shortened."""
    num_over = (num_before + num_tokens) % _TILE_TOKENS
    return num_tokens - num_over if num_over * _MOST_SHORTENED <= chunk else num_tokens


class StepPlan:
    """Collects slices within a token budget. One-token slices go first: the shape decode kernels serve."""

    __slots__ = ("budget", "num_tokens", "copies", "has_preempted", "prompts", "_decodes", "_chunks")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.num_tokens = 0
        self.copies: list[tuple[int, int]] = []
        self.has_preempted = False
        self.prompts: list[Sequence] = []  # that have a chunk in this step
        self._decodes: list[tuple[Sequence, SeqSlice]] = []
        self._chunks: list[tuple[Sequence, SeqSlice]] = []

    def add(self, seq: Sequence, piece: SeqSlice) -> None:
        self.budget -= piece.num_tokens
        self.num_tokens += piece.num_tokens
        is_decode = piece.num_tokens == 1 and piece.start > 0
        (self._decodes if is_decode else self._chunks).append((seq, piece))

    def spread_prompts(self, multiple: int) -> None:
        """Ends the step at the first multiple of so many tokens that leaves prompts three eighths of one.

        For a throughput that counts when all is done: prompts computed beside decodes share the reading of the weights with them, and a multiple
        of 256 tokens is what a GPU multiplies best. Three eighths, by a model of an H200's steps (benchmarks/results/offline-schedule*).
        """
        wanted = self.num_tokens + multiple * 3 // 8
        self.budget = min(self.budget, -(-wanted // multiple) * multiple - self.num_tokens)

    def chunk_len(self, num_left: int, chunk_size: int) -> int:
        """How many of a prompt's ``num_left`` tokens to add: ``chunk_size`` at most, a few less if the step then ends on a tile's edge."""
        num_tokens = min(num_left, chunk_size, self.budget)
        return num_tokens if num_tokens == num_left else tokens_beside(self.num_tokens, num_tokens, num_tokens)

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
