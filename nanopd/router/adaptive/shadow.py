"""What a prefill costs the requests that have not come yet: those that will be sent to the same worker while it is busy with this one.

Without it every worker looks equally good for a long, patient prompt. With it such prompts gather where a queue is already too long for the
impatient, and the other workers stay quick.
"""

from collections.abc import Sequence

from nanopd.router.adaptive.lanes import Arrival
from nanopd.router.adaptive.utility import chance

_CONCURRENT = 4  # prompts that share a step's budget
_SAMPLE = 6  # recent requests that stand for those to come
_INDIFFERENCE_MS = 50.0  # how much sooner a worker must answer to get nearly all arrivals


def first_token_ms(num_ahead: int, queue_ms: float, prefill_ms: float) -> float:
    """Of a prompt behind ``num_ahead`` others: up to four share the steps, the rest wait."""
    shared = min(prefill_ms + queue_ms, prefill_ms * min(num_ahead + 1, _CONCURRENT))
    return shared + queue_ms * max(0, num_ahead + 1 - _CONCURRENT) / (num_ahead + 1)


class Shadow:
    """For one decision."""

    def __init__(
        self, recent: Sequence[Arrival], goal_ms: float, num_workers: int, now: float, ttft_spread: float
    ) -> None:
        """``goal_ms``: TTFT goal of the request that is placed. Those with a tighter one go before it, so they lose nothing."""
        stride = max(1, len(recent) // _SAMPLE)
        chosen = [recent[i] for i in range(0, len(recent), stride)]
        self._sample = [a for a in chosen if a.ttft_goal_ms >= goal_ms]
        self._count = len(chosen)
        self._spread = ttft_spread
        span = now - recent[0].time_s if recent else 0.0
        self._rate = len(recent) / span / num_workers if span > 0.0 else 0.0

    def harm(self, count: int, queue_ms: float, prefill_ms: float) -> float:
        """Requests to come that would lose their TTFT objective by ``prefill_ms`` more on a worker with ``count`` prompts, ``queue_ms`` of work."""
        coming = self._rate * (queue_ms + prefill_ms) / 1e3
        if not self._sample or coming < 1e-3:
            return 0.0
        lost, reach = 0.0, queue_ms + prefill_ms
        for a in self._sample:
            if reach + _CONCURRENT * a.prefill_ms < 0.5 * a.ttft_goal_ms:
                continue  # in time either way
            before = first_token_ms(count, queue_ms, a.prefill_ms)
            after = first_token_ms(count + 1, queue_ms + prefill_ms, a.prefill_ms)
            lost += chance(before, a.ttft_goal_ms, self._spread) - chance(after, a.ttft_goal_ms, self._spread)
        return min(coming, 8.0) * lost / self._count
