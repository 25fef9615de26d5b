"""What the router remembers between decisions, about each request and each worker."""

from dataclasses import dataclass
from math import exp
from operator import itemgetter

from nanopd.router.adaptive.prefill_queue import PrefillQueue, Prompt
from nanopd.router.predictor import LengthDistribution, LengthKey
from nanopd.router.view import WorkerView

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
        """Takes note of prompts that the worker has finished, and plays the rest up to ``now``."""
        self.num_promised_tokens = 0
        finished: list[tuple[float, Prompt]] = []
        for prompt in self.queue.prompts:
            leg = worker.legs.get((prompt.request_id, prompt.attempt))
            if leg is None and prompt.is_open:
                finished.append((0.0, prompt))
            elif leg is None:
                self.num_promised_tokens += prompt.left
            elif leg.is_prefill and leg.first_token_at is not None:
                finished.append((leg.first_token_at, prompt))
            else:
                prompt.is_open = True
        for at, prompt in sorted(finished, key=itemgetter(0)):
            self.queue.finish(prompt, at)
        self.queue.advance(now, worker.num_decoding, worker.num_context_tokens)
