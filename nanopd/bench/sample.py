"""What one request came to."""

from enum import StrEnum

import msgspec

from nanopd.metrics import RequestTimes
from nanopd.request import Slo


class Outcome(StrEnum):
    """How a request ended for its client."""

    COMPLETED = "completed"
    REFUSED = "refused"  # 429: the engine's queue bound
    FAILED = "failed"  # any other error, or an answer that broke off
    UNFINISHED = "unfinished"  # still running when the drain was over


class Phases(msgspec.Struct, frozen=True):
    """Where the engine says the time went, milliseconds (nanopd's debug report)."""

    ttft_ms: float  # before HTTP and the client
    queue_ms: float
    prefill_ms: float
    transfer_ms: float
    transfer_exposed_ms: float
    decode_ms: float


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. ``token_ms``: when each output token came, milliseconds after the scheduled arrival; empty without streaming."""

    index: int  # in the load
    scheduled_s: float  # after the load's start
    sent_s: float
    num_prompt_tokens: int
    outcome: Outcome
    num_output_tokens: int = 0
    token_ms: tuple[float, ...] = ()
    e2e_ms: float | None = None  # to the end of the answer
    num_asked_tokens: int = 0
    ttft_slo_ms: float | None = None  # the trace's own objectives
    tpot_slo_ms: float | None = None
    error: str | None = None
    path: str | None = None  # collocated or disaggregated
    phases: Phases | None = None

    @property
    def is_completed(self) -> bool:
        return self.outcome is Outcome.COMPLETED

    @property
    def times(self) -> RequestTimes:
        """Seconds since the scheduled arrival."""
        return RequestTimes(0.0, tuple(ms / 1e3 for ms in self.token_ms))

    @property
    def ttft_ms(self) -> float | None:
        return self.token_ms[0] if self.token_ms else None

    @property
    def tpot_ms(self) -> float | None:
        tpot = self.times.tpot
        return None if tpot is None else tpot * 1e3

    @property
    def itl_ms(self) -> list[float]:
        return [seconds * 1e3 for seconds in self.times.itl]

    @property
    def late_ms(self) -> float:
        """How much later than scheduled the client sent it."""
        return (self.sent_s - self.scheduled_s) * 1e3

    def meets(self, slo: Slo) -> bool:
        """Whether it completed and kept the run's objectives, or its own where the run has none."""
        own = slo if slo != Slo() else Slo(self.ttft_slo_ms, self.tpot_slo_ms)
        return self.is_completed and self.times.meets(own)
