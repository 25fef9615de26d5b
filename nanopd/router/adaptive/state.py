"""What the router remembers between decisions, about each request and each worker."""

from dataclasses import dataclass
from math import exp

from nanopd.cost_model import StepFeatures, StepModel
from nanopd.messages import StepTiming
from nanopd.router.adaptive.prefill_queue import PrefillQueue
from nanopd.router.predictor import LengthDistribution, LengthKey
from nanopd.router.view import WorkerView

_CHECKED_STEPS = 8  # of a heartbeat's, about
_FIRST_S = 0.25  # for which one prefill would be noise


@dataclass(slots=True)
class LiveRequest:
    """A request that has been placed and has not ended."""

    key: LengthKey
    lengths: LengthDistribution
    ttft_goal_ms: float
    tpot_goal_ms: float
    attempt: int
    priority: int = 0  # in its workers' queues
    decode_worker: str = ""
    told: int = 0  # output tokens that the predictor knows of
    _expected: float = 0.0
    _until: int = -1

    def expected_total(self, age: int) -> float:
        """Expected output length of a request that is ``age`` tokens old; looked up again only when it has grown by half."""
        if age > self._until:
            self._expected = self.lengths.conditional(age).mean
            self._until = age + age // 2 + 16
        return self._expected


@dataclass(slots=True)
class WorkerState:
    """One worker."""

    queue: PrefillQueue
    incarnation: int = 0
    num_promised_tokens: int = 0  # of prompts that the worker has not been told of yet, as of the last look
    _inflow: float = 0.0  # ms of prefill per second
    _inflow_at: float = 0.0
    _inflow_since: float | None = None
    model_error: float = 1.0  # measured step / predicted step, smoothed
    _steps_seen: tuple[StepTiming, ...] = ()

    def inflow(self, now: float, window_s: float) -> float:
        """Share of time that prefills took from decodes here of late."""
        if self._inflow_since is None:
            return 0.0
        seen = 1.0 - exp((self._inflow_since - now - _FIRST_S) / window_s)  # of the window: it is not full at first
        return min(0.9, self._inflow * exp((self._inflow_at - now) / window_s) / seen / 1e3)

    def add_inflow(self, stall_ms: float, now: float, window_s: float) -> None:
        if self._inflow_since is None:
            self._inflow_since = now
        self._inflow = self._inflow * exp((self._inflow_at - now) / window_s) + stall_ms / window_s
        self._inflow_at = now

    def settle(self, worker: WorkerView, now: float) -> None:
        """Drops prompts that the worker is known to have finished, and plays the rest up to ``now``."""
        kept, promised = [], 0
        for prompt in self.queue.prompts:
            leg = worker.legs.get((prompt.request_id, prompt.attempt))
            if leg is None and prompt.is_open or leg is not None and leg.prefill_done and leg.is_prefill:
                continue
            prompt.is_open = leg is not None
            promised += 0 if prompt.is_open else prompt.left
            kept.append(prompt)
        self.queue.prompts, self.num_promised_tokens = kept, promised
        self.queue.advance(now, worker.num_decoding, worker.num_context_tokens)

    def check_model(self, steps: tuple[StepTiming, ...], model: StepModel) -> bool:
        """Compares newly reported steps with what the model says of them; True if there were any to compare."""
        if steps is self._steps_seen:
            return False
        self._steps_seen = steps
        some = steps[:: 1 + len(steps) // _CHECKED_STEPS]
        predicted_ms = sum(model.predict_ms(StepFeatures.of_timing(step)) for step in some)
        if predicted_ms <= 0.0:
            return False
        self.model_error += 0.1 * (sum(step.step_ms for step in some) / predicted_ms - self.model_error)
        return True
