"""What a router answers with: where a request runs, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan the router looked at. Times are what its model expects, milliseconds."""

    prefill_worker: str
    decode_worker: str  # the same worker: collocated
    ttft_ms: float | None = None
    total_ms: float | None = None
    score: float | None = None  # higher is better
    tpot_ms: float | None = None
    utility: float | None = None  # expected share of the request's objectives that are kept
    harm: float | None = None  # expected loss of the same to requests already on the workers
    num_cached_tokens: int = 0  # of the prompt, expected in the prefill worker's prefix cache

    @property
    def path(self) -> str:
        """``collocated`` or ``disaggregated``."""
        return "collocated" if self.prefill_worker == self.decode_worker else "disaggregated"


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a request went where it went."""

    chosen: Candidate
    reason: str  # a sentence
    policy: str
    candidates: tuple[Candidate, ...] = ()
    num_resident_tokens: int = 0
    priority: int | None = None  # of the request in its workers' queues; None: its own
    refused: bool = False  # no plan is likely to keep the request's objectives, and such requests are not to be served
