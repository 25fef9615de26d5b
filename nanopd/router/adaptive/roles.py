"""Soft roles: how many workers should mostly prefill, given what arrives. They follow the load, with hysteresis, and nobody has to drain.

A fluid model: ``k`` workers prefill up to a bound of their time, what they cannot take spills over to the others, and those decode. Every ``k`` is
valued by the objectives that recent requests would keep; the answer only tilts the scores of plans, it forbids none.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from nanopd.config import Role
from nanopd.cost_model import StepFeatures, StepModel
from nanopd.router.adaptive.utility import chance
from nanopd.router.view import WorkerView

_WINDOW = 256  # recent requests that stand for those to come
_SAMPLE = 24  # of them, whose objectives are tried
_BUSY = 0.95  # share of a prefill worker's time that is planned
_PERIOD_S = 1.0
_FIRST_GAIN = 0.15  # in objectives kept, for which workers take on roles; the fluid model is no better than that
_GAIN = 0.02  # for which roles change
_MAX_OPTIONS = 16
_FEW = 8  # observations that are too few
_UNKNOWN_OUTPUT = (
    128.0  # tokens, at most, that an answer counts before any has ended: roles are for loads that are known
)
_CHUNK = 512  # prompt tokens in one step


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the planner needs of a request. Milliseconds."""

    time_s: float
    prefill_ms: float
    num_tokens: int
    num_output: float  # expected
    ttft_goal_ms: float
    tpot_goal_ms: float


class RolePlanner:
    """``prefillers`` are the workers that should mostly prefill; empty: every worker does both."""

    def __init__(self, model: StepModel, ttft_spread: float, tpot_spread: float) -> None:
        self.prefillers: frozenset[str] = frozenset()
        self.is_strict = False  # the others should not prefill even when it would be quicker
        self.value = 0.0
        self._model = model
        self._spreads = ttft_spread, tpot_spread
        self._recent: deque[Arrival] = deque(maxlen=_WINDOW)
        self._outputs: deque[int] = deque(
            maxlen=_WINDOW
        )  # lengths of what ended: truer than beliefs about what has not
        self._due = 0.0

    @property
    def recent(self) -> list[Arrival]:
        """Requests of late, the earliest first."""
        return list(self._recent)

    def note_output(self, num_tokens: int) -> None:
        """A request has ended."""
        self._outputs.append(num_tokens)

    def note(self, arrival: Arrival) -> None:
        self._recent.append(arrival)

    def update(self, workers: Sequence[WorkerView], now: float) -> None:
        """Plans anew when it is time, or when a worker has gone."""
        ids = {w.worker_id for w in workers}
        if (now < self._due and self.prefillers <= ids) or len(self._recent) < _FEW:
            return
        self._due = now + _PERIOD_S
        count = len(workers)
        load = self._load(now)
        values = {plan: self._value(*plan, count, load) for plan in _options(count)}
        best = max(values, key=lambda plan: values[plan])
        present = (len(self.prefillers & ids), self.is_strict)
        if present not in values:
            values[present] = self._value(*present, count, load)
        gain = _FIRST_GAIN if present[0] == 0 else _GAIN
        if best[0] and values[best] < values[0, False] + _FIRST_GAIN / 2:
            best, gain = (0, False), 0.0  # hardly worth it: every worker does both
        if best != present and values[best] > values[present] + gain or not self.prefillers <= ids:
            self.prefillers, self.is_strict = self._choose(workers, best[0]), best[1]
            present = best
        self.value = values[present]

    def _choose(self, workers: Sequence[WorkerView], count: int) -> frozenset[str]:
        """Workers that prefill already come first, then those with least to decode."""
        order = {Role.PREFILL: 0, Role.COLLOCATED: 1, Role.DECODE: 2}
        ranked = sorted(
            workers,
            key=lambda w: (w.worker_id not in self.prefillers, order[w.role], w.num_context_tokens, w.worker_id),
        )
        return frozenset(w.worker_id for w in ranked[:count])

    def _load(self, now: float) -> "_Load":
        recent = self._recent
        rate = len(recent) / max(now - recent[0].time_s, 1e-3)
        mean_prefill = sum(a.prefill_ms for a in recent) / len(recent)
        expected = min(_UNKNOWN_OUTPUT, sum(a.num_output for a in recent) / len(recent))
        mean_output = sum(self._outputs) / len(self._outputs) if len(self._outputs) >= _FEW else expected
        weight = sum(a.num_output for a in recent) or 1.0
        context = sum((a.num_tokens + a.num_output / 2) * a.num_output for a in recent) / weight
        return _Load(rate * mean_prefill / 1e3, rate * mean_output, context)

    def _value(self, num_prefill: int, is_strict: bool, num_workers: int, load: "_Load") -> float:
        """Share of objectives kept, with a little for being fast. Strict: what the prefill workers cannot take in time is lost instead of spilt."""
        taken = min(load.prefill, _BUSY * num_prefill)
        lost = load.prefill - taken if is_strict else 0.0
        spilt = load.prefill - taken - lost
        num_decode = num_workers - num_prefill
        inflow = min(0.97, spilt / num_decode)
        token_ms = self._token_ms(load.tokens / num_decode, load.context, inflow)
        alone_ms = self._model.predict_ms(StepFeatures(0, 0.0, 0, 1, 0))
        beside_ms = max(0.0, token_ms * (1.0 - inflow) - alone_ms)  # what decodes add to a chunk's step
        share_spilt, share_kept = (spilt / load.prefill, taken / load.prefill) if load.prefill else (0.0, 1.0)
        if is_strict:
            share_kept **= 3  # a queue that grows makes others late, too
        busy = min(0.9, taken / num_prefill) if num_prefill else 0.0
        total = 0.0
        sample = list(self._recent)[:: max(1, len(self._recent) // _SAMPLE)]
        ttft_spread, tpot_spread = self._spreads
        for a in sample:
            apart = 5.0 + a.prefill_ms / (1.0 - busy)  # chunks of several prompts share steps: processor sharing
            beside = 5.0 + (a.prefill_ms + beside_ms * -(-a.num_tokens // _CHUNK)) / (1.0 - inflow)
            in_time = share_kept * chance(apart, a.ttft_goal_ms, ttft_spread) + share_spilt * chance(
                beside, a.ttft_goal_ms, ttft_spread
            )
            slack = min(2.0, token_ms / a.tpot_goal_ms) + min(2.0, (apart if num_prefill else beside) / a.ttft_goal_ms)
            total += in_time * chance(token_ms, a.tpot_goal_ms, tpot_spread) - 0.02 * slack
        return total / len(sample)

    def _token_ms(self, demand: float, context: float, inflow: float) -> float:
        """Where batch and step agree: ``demand`` tokens per second from one worker, each sequence ``context`` long."""
        token_ms = 5.0
        for _ in range(8):
            batch = max(1, min(256, round(demand * token_ms / 1e3)))
            step_ms = self._model.predict_ms(StepFeatures(0, 0.0, 0, batch, round(batch * context)))
            token_ms = 0.5 * token_ms + 0.5 * max(step_ms, 0.0) / (1.0 - inflow)
        full = demand * token_ms / 1e3 > 250.0
        return token_ms * 4.0 if full else token_ms


@dataclass(frozen=True, slots=True)
class _Load:
    """What all workers together are asked for."""

    prefill: float  # workers' time
    tokens: float  # decoded per second
    context: float  # of a decoding sequence, on average


def _options(count: int) -> list[tuple[int, bool]]:
    """Numbers of prefill workers to try, 0 to all but one, soft and strict."""
    numbers = range(count)
    if count > _MAX_OPTIONS:
        numbers = sorted({round(i * (count - 1) / _MAX_OPTIONS) for i in range(_MAX_OPTIONS)})  # type: ignore[assignment]
    return [(number, is_strict) for number in numbers for is_strict in (False, True) if number or not is_strict]
