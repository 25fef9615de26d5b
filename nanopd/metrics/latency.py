"""The latency measures of one request, from the times its tokens came. Pure: seconds in, seconds out, no clock.

::

    scheduled/arrival      first token     token        last token
        |------ TTFT ---------->|--- ITL --->|--- ITL --->|
        |                       |<- (n - 1) x TPOT ------>|
        |---------------------- E2E --------------------->|
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanopd.request import Slo


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """When a request arrived and when each output token came (seconds on one clock, in order).

    For open-loop load ``arrival`` is the *scheduled* arrival: a client that falls behind must not hide queueing.
    """

    arrival: float
    token_times: tuple[float, ...]

    @property
    def ttft(self) -> float | None:
        """Time to first token; None if there was none."""
        return self.token_times[0] - self.arrival if self.token_times else None

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first; None below two tokens."""
        count = len(self.token_times)
        return (self.token_times[-1] - self.token_times[0]) / (count - 1) if count > 1 else None

    @property
    def itl(self) -> tuple[float, ...]:
        """Inter-token latencies. Tokens that came together count as 0 apart: merging them would hide the wait before them."""
        return tuple(later - earlier for earlier, later in zip(self.token_times, self.token_times[1:], strict=False))

    @property
    def e2e(self) -> float | None:
        """Time to the last token."""
        return self.token_times[-1] - self.arrival if self.token_times else None

    def meets(self, slo: Slo) -> bool:
        """Whether every objective that is set was kept. A request without tokens keeps none; TPOT of a single token is kept."""
        if self.ttft is None:
            return False
        ttft_ok = slo.ttft_ms is None or self.ttft * 1e3 <= slo.ttft_ms
        tpot_ok = slo.tpot_ms is None or self.tpot is None or self.tpot * 1e3 <= slo.tpot_ms
        return ttft_ok and tpot_ok


def goodput(requests: Sequence[RequestTimes], slo: Slo, elapsed_s: float, num_devices: int = 1) -> float:
    """Requests per second and device that kept the objectives (DistServe, OSDI '24). ``elapsed_s`` is true elapsed time."""
    if elapsed_s <= 0.0 or num_devices < 1:
        raise ValueError(f"goodput needs elapsed_s > 0 and num_devices >= 1, got {elapsed_s} and {num_devices}")
    return sum(times.meets(slo) for times in requests) / elapsed_s / num_devices


def slo_attainment(requests: Sequence[RequestTimes], slo: Slo) -> float | None:
    """Share of requests that kept the objectives; None without requests."""
    return sum(times.meets(slo) for times in requests) / len(requests) if requests else None
