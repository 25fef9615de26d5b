"""What a prefill costs the requests that have not come yet: those that will be sent to the same worker while it is busy with this one.

Without it every worker looks equally good for a long, patient prompt. With it such prompts gather where a queue is already too long for the
impatient, and the other workers stay quick.
"""

from collections.abc import Sequence
from math import exp

from nanopd.router.adaptive.roles import Arrival
from nanopd.router.adaptive.utility import chance

_CONCURRENT = 4  # prompts that share a step's budget
_SAMPLE = 8  # recent requests that stand for those to come
_INDIFFERENCE_MS = 50.0  # how much sooner a worker must answer to get nearly all arrivals


def first_token_ms(num_ahead: int, queue_ms: float, prefill_ms: float) -> float:
    """Of a prompt behind ``num_ahead`` others: up to four share the steps, the rest wait."""
    shared = min(prefill_ms + queue_ms, prefill_ms * min(num_ahead + 1, _CONCURRENT))
    return shared + queue_ms * max(0, num_ahead + 1 - _CONCURRENT) / (num_ahead + 1)


class Shadow:
    """For one decision: ``queues`` holds (number of prompts, milliseconds of prefill) of each worker."""

    def __init__(
        self, queues: dict[str, tuple[int, float]], recent: Sequence[Arrival], now: float, ttft_spread: float
    ) -> None:
        self._queues = queues
        self._sample = recent[:: max(1, len(recent) // _SAMPLE)] if recent else []
        self._spread = ttft_spread
        span = now - recent[0].time_s if recent else 0.0
        self._rate = len(recent) / span if span > 0.0 else 0.0
        mean = sum(a.prefill_ms for a in self._sample) / len(self._sample) if self._sample else 0.0
        waits = {key: first_token_ms(*queue, mean) for key, queue in queues.items()}
        least = min(waits.values(), default=0.0)
        weights = {key: exp(max(-50.0, (least - wait) / _INDIFFERENCE_MS)) for key, wait in waits.items()}
        total = sum(weights.values()) or 1.0
        self._shares = {key: weight / total for key, weight in weights.items()}

    def harm(self, worker_id: str, prefill_ms: float) -> float:
        """Requests to come that would lose their TTFT objective by ``prefill_ms`` more on the worker."""
        if not self._sample:
            return 0.0
        count, queue_ms = self._queues[worker_id]
        coming = self._rate * self._shares[worker_id] * (queue_ms + prefill_ms) / 1e3
        if coming < 1e-3:
            return 0.0
        lost = 0.0
        for a in self._sample:
            before = first_token_ms(count, queue_ms, a.prefill_ms)
            after = first_token_ms(count + 1, queue_ms + prefill_ms, a.prefill_ms)
            lost += chance(before, a.ttft_goal_ms, self._spread) - chance(after, a.ttft_goal_ms, self._spread)
        return min(coming, 8.0) * lost / len(self._sample)
