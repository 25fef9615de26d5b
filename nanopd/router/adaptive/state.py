"""What the router remembers between decisions, about each request and each worker."""

from dataclasses import dataclass, field
from math import exp

from nanopd.messages import WorkerStats
from nanopd.router.adaptive.prefill_queue import PrefillQueue
from nanopd.router.predictor import LengthDistribution, LengthKey
from nanopd.router.view import WorkerView


@dataclass(slots=True)
class LiveRequest:
    """A request that has been placed and has not ended."""

    key: LengthKey
    lengths: LengthDistribution
    ttft_goal_ms: float
    tpot_goal_ms: float
    attempt: int
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
    _inflow: float = 0.0  # ms of prefill per second
    _inflow_at: float = 0.0
    model_error: float = 1.0  # measured step / predicted step, smoothed
    _steps_seen: int = field(default=0)

    def inflow(self, now: float, window_s: float) -> float:
        """Share of time that prefills took from decodes here of late."""
        return min(0.9, self._inflow * exp((self._inflow_at - now) / window_s) / 1e3)

    def add_inflow(self, stall_ms: float, now: float, window_s: float) -> None:
        self._inflow = self._inflow * exp((self._inflow_at - now) / window_s) + stall_ms / window_s
        self._inflow_at = now

    def settle(self, worker: WorkerView, now: float) -> None:
        """Drops prompts that the worker is known to have finished, and plays the rest up to ``now``."""
        kept = []
        for prompt in self.queue.prompts:
            leg = worker.legs.get((prompt.request_id, prompt.attempt))
            if leg is None and prompt.is_open or leg is not None and leg.prefill_done and leg.is_prefill:
                continue
            prompt.is_open = leg is not None
            kept.append(prompt)
        self.queue.prompts = kept
        self.queue.advance(now, worker.num_decoding, worker.num_context_tokens)

    def has_news(self, stats: WorkerStats) -> bool:
        """Whether the worker has reported steps that were not compared yet."""
        return stats.num_steps != self._steps_seen

    def check_model(self, worker: WorkerView, predicted_ms: float) -> None:
        """Compares the worker's reported median step with what the model says of such a step."""
        stats = worker.stats
        if (
            stats.num_steps != self._steps_seen
            and stats.step_ms > 0.0
            and predicted_ms > 0.0
            and stats.num_waiting_tokens == 0
        ):
            self._steps_seen = stats.num_steps
            self.model_error += 0.1 * (stats.step_ms / predicted_ms - self.model_error)
