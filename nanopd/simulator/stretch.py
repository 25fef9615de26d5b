"""A stretch of steps that only decode the same sequences: nobody has to look at them one by one.

Their ends are known beforehand. The worker's engine is brought forward when something happens to it, the central scheduler is told when it is about
to decide something; both find what they would have found step by step. Times, with ``d`` steps in flight when the stretch begins::

    ends[0] .. ends[d-1] in flight | ends[d] .. ends[d+n-1] launched when the step d before each has ended
"""

from bisect import bisect_right
from collections.abc import Sequence

from nanopd.cost_model import StepFeatures, StepModel
from nanopd.engine import Engine
from nanopd.messages import Leg, StepTiming, TokenDelta, TokensOut
from nanopd.scheduler import PlainDecodes
from nanopd.simulator.executor import WORD_TOKEN, CostModelExecutor

MAX_STEPS = 64
MIN_STEPS = 2  # below, stepping is as cheap


class Stretch:
    """``num_left`` steps from now may end unseen. Times in seconds."""

    def __init__(self, decodes: PlainDecodes, num_steps: int, in_flight: Sequence[float], model: StepModel) -> None:
        """``in_flight``: when the steps in flight end."""
        self.num_left = num_steps
        self.ends = list(in_flight)
        self.step_s: list[float] = []  # of the steps after those in flight
        self._decodes = decodes
        self._depth = len(in_flight)
        self._num_told = 0
        first = StepFeatures.of_batch(decodes.first_batch)
        batch, context = first.num_decodes, first.decode_context + (self._depth - 1) * first.num_decodes
        end = self.ends[-1]
        for _ in range(num_steps):
            context += batch
            step_s = model.device_ms(StepFeatures(0, 0.0, 0, batch, context)) / 1e3
            end += step_s
            self.step_s.append(step_s)
            self.ends.append(end)
        self._legs = [_leg_of(piece.request_id) for piece in decodes.first_batch.slices]
        self._first_index = [len(seq.token_ids) - seq.num_prompt_tokens for seq in decodes.seqs]

    def num_ended(self, now: float) -> int:
        """Steps that have ended by ``now``."""
        return min(bisect_right(self.ends, now), self.num_left)

    def news(self, now: float) -> tuple[float, TokensOut] | None:
        """What has been sampled by ``now`` and not been told yet, and when the last of it was."""
        num_ended = self.num_ended(now)
        count = num_ended - self._num_told
        if count <= 0:
            return None
        tokens, offset = (WORD_TOKEN,) * count, self._num_told
        self._num_told = num_ended
        deltas = tuple(
            TokenDelta(leg, first + offset, tokens) for leg, first in zip(self._legs, self._first_index, strict=True)
        )
        return self.ends[num_ended - 1], TokensOut(deltas)

    def advance(self, engine: Engine, num_steps: int) -> tuple[list[StepTiming], list[float]]:
        """Brings the engine forward by ``num_steps``, which have ended and been told. Returns their timings, and the times of the steps launched
        meanwhile."""
        landed = self.ends[:num_steps]  # a step is launched the moment one lands
        timings = engine.fast_forward(self._decodes, WORD_TOKEN, landed, submitted=landed)
        launched = self.step_s[:num_steps]
        del self.ends[:num_steps], self.step_s[:num_steps]
        self._first_index = [first + num_steps for first in self._first_index]
        self._num_told -= num_steps
        self.num_left -= num_steps
        return timings, launched

    def in_flight(self) -> list[float]:
        """When the steps in flight end."""
        return self.ends[: self._depth]


def find_stretch(engine: Engine, executor: CostModelExecutor, in_flight: Sequence[float]) -> Stretch | None:
    """The stretch that begins now, if one does; its steps end no sequence."""
    decodes = engine.scheduler.plain_decodes()
    if decodes is None:
        return None
    num_steps = min(MAX_STEPS, decodes.max_steps)
    for piece in decodes.first_batch.slices:
        # the last step launched meanwhile must sample one of the words before the last
        num_steps = min(num_steps, executor.final_len(piece.request_id) - piece.start - 1 - len(in_flight))
    if num_steps < MIN_STEPS:
        return None
    return Stretch(decodes, num_steps, in_flight, executor.model)


def _leg_of(seq_id: str) -> Leg:
    request_id, _, attempt = seq_id.rpartition("#")
    return Leg(request_id, int(attempt))
