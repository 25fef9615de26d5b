"""The executor's twin for tests: a deterministic "model" over a simulated paged memory.

Its KV of a position is the token id fed there. A step stores the ids it is fed through the block table and reads the whole context back through
it, and the next token is a hash of what was read. So an aliased, reused or stale block, a wrong chunk boundary, a missing copy-on-write or a
false prefix hit all change the tokens.

Batches are read at ``submit`` and run when their result is asked for, as late as the protocol allows: reusing a block before its fence shows.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

from nanopd.batch import Batch, SampleSpec, SeqSlice, StepResult
from nanopd.engine.executor import StepHandle
from nanopd.request import TokenLogprobs

POISON = -1  # a slot nothing was stored in


def scripted_token(context: Sequence[int], spec: SampleSpec, vocab_size: int) -> int:
    """The token that follows ``context``: a hash of it, the uniform number, and (for penalties) the history."""
    state = crc32(array("i", context).tobytes())
    if spec.params.temperature > 0.0:
        state = crc32(repr(spec.uniform).encode(), state)
    if spec.params.needs_history:
        state = crc32(array("i", [*spec.prompt_token_ids, POISON, *spec.output_token_ids]).tobytes(), state)
    token = state % vocab_size
    while token in spec.suppressed_token_ids:
        token = (token + 1) % vocab_size
    return token


def scripted_logprob(context: Sequence[int], token_id: int) -> TokenLogprobs:
    """A made-up log-probability of ``token_id`` after ``context``."""
    return TokenLogprobs(token_id, -float(crc32(array("i", [*context, token_id]).tobytes()) % 1000))


class ScriptedExecutor:
    """Runs batches on host memory: ``memory[block * block_size + offset]`` is the token id stored there."""

    def __init__(self, num_blocks: int, block_size: int, vocab_size: int = 97) -> None:
        self.memory = array("i", [POISON]) * (num_blocks * block_size)
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.num_steps = 0
        self._queue: deque[_Submitted] = deque()
        self._last_tokens: list[int] = []

    def submit(self, batch: Batch) -> StepHandle:
        rank = [not piece.is_decode for piece in batch.slices]
        assert rank == sorted(rank), "decode slices come first"
        assert all(piece.num_tokens > 0 for piece in batch.slices), "a slice feeds at least one token"
        step = _Submitted(self, batch, [array("i", piece.block_table) for piece in batch.slices])
        self._queue.append(step)
        return step

    def run_through(self, step: "_Submitted") -> StepResult:
        """Runs the steps submitted up to ``step``, in order."""
        while step.outcome is None:
            oldest = self._queue.popleft()
            oldest.outcome = self._run(oldest.batch, oldest.tables)
        return step.outcome

    def copy_block(self, source: int, destination: int) -> None:
        size = self.block_size
        self.memory[destination * size : (destination + 1) * size] = self.memory[source * size : (source + 1) * size]

    def _run(self, batch: Batch, tables: list[array]) -> StepResult:
        self.num_steps += 1
        result = StepResult([], [])
        for source, destination in batch.block_copies:
            self.copy_block(source, destination)
        contexts = [self._store(piece, table) for piece, table in zip(batch.slices, tables, strict=True)]
        for piece, table, end in zip(
            batch.slices, tables, contexts, strict=True
        ):  # stored first: a step's writes must not collide
            context = self._read(table, end)
            self._logprobs(piece, context, result)
            specs = () if piece.sample is None else (*piece.verify, piece.sample)
            for end, spec in enumerate(specs, piece.end - len(specs) + 1):
                token = scripted_token(context[:end], spec, self.vocab_size)
                result.token_ids.append(token)
                result.logprobs.append(self._logprob(context[:end], token, spec.params.logprobs))
        self._last_tokens = result.token_ids
        return result

    def _logprob(self, context: list[int], token: int, num_top: int | None) -> TokenLogprobs | None:
        if num_top is None:
            return None
        entry = scripted_logprob(context, token)
        if num_top == 0:
            return entry
        every = [(other, scripted_logprob(context, other).logprob) for other in range(self.vocab_size)]
        return replace(entry, top=tuple(sorted(every, key=lambda pair: -pair[1])[:num_top]))

    def _slot(self, table: array, position: int) -> int:
        return table[position // self.block_size] * self.block_size + position % self.block_size

    def _store(self, piece: SeqSlice, table: array) -> int:
        ids = piece.token_ids if piece.previous_row is None else (self._last_tokens[piece.previous_row],)
        assert len(ids) == piece.num_tokens
        for offset, token_id in enumerate(ids):
            self.memory[self._slot(table, piece.start + offset)] = token_id
        return piece.end

    def _read(self, table: array, end: int) -> list[int]:
        context = [self.memory[self._slot(table, position)] for position in range(end)]
        assert POISON not in context, "a step read KV that was never stored"
        return context

    def _logprobs(self, piece: SeqSlice, context: list[int], result: StepResult) -> None:
        if piece.prompt_logprobs is not None:
            result.prompt_logprobs[piece.request_id] = [
                scripted_logprob(context[: piece.start + i + 1], target)
                for i, target in enumerate(piece.logprob_targets)
            ]


class _Submitted:
    """A step that runs when its result is wanted."""

    def __init__(self, executor: ScriptedExecutor, batch: Batch, tables: list[array]) -> None:
        self.batch = batch
        self.tables = tables
        self.outcome: StepResult | None = None
        self._executor = executor

    def done(self) -> bool:
        return self.outcome is not None

    def result(self) -> StepResult:
        return self._executor.run_through(self)
