"""Soft roles: how many workers should mostly prefill, and who may decode beside them. They follow the load; nobody has to drain.

A fluid model values every plan by the objectives that recent requests would keep. ``lanes`` holds the physics; here it is asked, one plan at a time,
so that no decision waits for a round of planning, and a round takes as many decisions as there are plans.
"""

from collections import deque
from collections.abc import Generator, Sequence

from nanopd.config import Role
from nanopd.cost_model import StepPredictor
from nanopd.router.adaptive.lanes import Arrival, LanePlan, Load, value_of
from nanopd.router.view import WorkerView

_WINDOW = 1024  # recent requests that the rate is read from
_LATEST, _SAMPLE = 256, 16  # of the latest of them, so many are tried
_FEW = 8  # requests that are too few
_GAIN = 0.015  # in objectives kept: what a change of plan must bring,
_MOVE = 0.12  # and beside it if all workers change lane
_NEWS = 0.3  # weight of a round against those before
_PERIOD_S = 0.001  # between two steps of a valuation, on average
_FEWEST_STEPS, _MOST_STEPS = 2, 12  # of one decision,
_STEPS = 96  # between them this over the number of workers: to more workers decisions come more often
_MAX_NUMBERS = 8  # of prefill workers that are tried in any case
_TOGETHER = LanePlan(0, float("inf"))


class _Round:
    """One round of planning: the plans still to value, and what was found so far."""

    def __init__(self, load: Load, plans: Sequence[LanePlan]) -> None:
        self.values: dict[LanePlan, float] = {}
        self._load = load
        self._left = deque(plans)
        self._valuation: Generator[None, None, float] | None = None  # of the first that is left

    def advance(self, num_workers: int, model: StepPredictor) -> bool:
        """Goes on with one plan's valuation, or with the next one's; False once there is none."""
        if not self._left:
            return False
        if self._valuation is None:
            self._valuation = value_of(self._left[0], num_workers, self._load, model)
        try:
            next(self._valuation)
        except StopIteration as end:
            self.values[self._left.popleft()] = end.value
            self._valuation = None
        return True


class RolePlanner:
    """``prefillers`` are the workers that should mostly prefill; empty: every worker does both."""

    def __init__(self, model: StepPredictor) -> None:
        self.prefillers: frozenset[str] = frozenset()
        self.patient_goal_ms = float(
            "inf"
        )  # requests with this TPOT goal or a wider one decode where they were prefilled
        self.gain = 0.0  # objectives that each request keeps by the roles, on average: what not heeding them costs
        self._model = model
        self._recent: deque[Arrival] = deque(maxlen=_WINDOW)
        self._plan = _TOGETHER
        self._values: dict[LanePlan, float] = {}  # over the rounds
        self._round: _Round | None = None
        self._num_workers = 0
        self._planned_at = 0.0

    @property
    def recent(self) -> deque[Arrival]:
        """Requests of late, the earliest first."""
        return self._recent

    def note(self, arrival: Arrival) -> None:
        self._recent.append(arrival)

    def update(self, workers: Sequence[WorkerView], now: float) -> None:
        """Goes on valuing plans; at the end of a round the best one is taken."""
        if len(workers) != self._num_workers:  # somebody came or went
            self._num_workers, self._round, self._values = len(workers), None, {}
            self._take(self._plan if self._plan.num_prefill < len(workers) else _TOGETHER, workers)
        if len(self._recent) < _FEW:
            return
        most = max(_FEWEST_STEPS, min(_MOST_STEPS, _STEPS // len(workers)))
        num_steps = min(most, int((now - self._planned_at) / _PERIOD_S))
        if num_steps:
            self._planned_at = now
        for _ in range(num_steps):
            self._go_on(workers, now)

    def _go_on(self, workers: Sequence[WorkerView], now: float) -> None:
        if self._round is None:
            self._round = _Round(self._load(now), self._plans(len(workers)))
        if self._round.advance(len(workers), self._model):
            return
        known = self._values
        self._values = {p: v + (1.0 - _NEWS) * (known.get(p, v) - v) for p, v in self._round.values.items()}
        self._round = None
        self._choose(workers)

    def _choose(self, workers: Sequence[WorkerView]) -> None:
        values = self._values
        best = max(values, key=lambda plan: values[plan])
        gain = _GAIN + _MOVE * abs(best.num_prefill - self._plan.num_prefill) / len(workers)
        if best.num_prefill and values[best] < values[_TOGETHER] + _GAIN:
            best, gain = _TOGETHER, 0.0  # hardly worth it: every worker does both
        if best != self._plan and values[best] >= values.get(self._plan, -1.0) + gain:
            self._take(best, workers)
        self.gain = values.get(self._plan, 0.0) - values[_TOGETHER] if self._plan.num_prefill else 0.0

    def _take(self, plan: LanePlan, workers: Sequence[WorkerView]) -> None:
        """Workers that prefill already come first, those with most to prefill ahead; then those with least to decode."""
        order = {Role.PREFILL: 0, Role.COLLOCATED: 1, Role.DECODE: 2}

        def rank(w: WorkerView) -> tuple[bool, int, int, str]:
            if w.worker_id in self.prefillers:
                return False, 0, -w.num_waiting_prompt_tokens, w.worker_id
            return True, order[w.role], w.num_context_tokens, w.worker_id

        ranked = sorted(workers, key=rank)
        self._plan, self.patient_goal_ms = plan, plan.patient_goal_ms
        self.prefillers = frozenset(w.worker_id for w in ranked[: plan.num_prefill])

    def _load(self, now: float) -> Load:
        recent = self._recent
        rate = len(recent) / max(now - recent[0].time_s, 1e-3)
        latest = sorted(list(recent)[-_LATEST:], key=lambda a: (a.tpot_goal_ms, a.ttft_goal_ms, a.num_tokens))
        stride = -(-len(latest) // _SAMPLE)
        chosen = latest[stride // 2 :: stride] or latest
        return Load(rate, tuple(sorted(chosen, key=lambda a: a.ttft_goal_ms)))

    def _plans(self, num_workers: int) -> list[LanePlan]:
        """The present one first: whatever else is valued, it is. Numbers of workers far apart, and closer ones around the best that is known."""
        goals = sorted({a.tpot_goal_ms for a in self._recent})
        cuts = [float("inf"), *goals[1:][-2:]]
        apart = -(-num_workers // _MAX_NUMBERS)
        plans = [self._plan, _TOGETHER]
        plans += [LanePlan(number, cut) for number in range(apart, num_workers, apart) for cut in cuts]
        for plan in {self._plan, max(self._values, key=self._values.__getitem__, default=self._plan)} - {_TOGETHER}:
            near = [plan.num_prefill + sign * step for step in (1, apart // 4, apart // 2) for sign in (-1, 1)]
            plans += [plan._replace(num_prefill=number) for number in near if 0 < number < num_workers]
        return list(dict.fromkeys(plans))
