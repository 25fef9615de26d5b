"""The cluster as it stands, for /health, /metrics and the dashboard."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from nanopd.cluster.tracked_request import TrackedRequest
from nanopd.config import Role
from nanopd.cost_model import StepFit
from nanopd.messages import WorkerStats
from nanopd.router import WorkerView
from nanopd.router.plan import Decision


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One worker."""

    worker_id: str
    role: Role
    incarnation: int
    ready: bool
    num_blocks: int
    num_legs: int
    stats: WorkerStats


@dataclass(frozen=True, slots=True)
class RequestSnapshot:
    """One unfinished request."""

    request_id: str
    state: str
    age_s: float
    attempt: int
    num_prompt_tokens: int
    num_output_tokens: int
    decision: Decision


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    requests: int = 0
    finished: dict[str, int] = field(default_factory=dict)  # by finish reason
    paths: dict[str, int] = field(default_factory=dict)  # attempts by path
    fallbacks: dict[str, int] = field(
        default_factory=dict
    )  # by cause: attempts beyond the first, collocated instead of disaggregated, hand-offs that would close a circle
    handoffs: int = 0
    transfer_bytes: int = 0
    transfer_ms: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    worker_losses: int = 0

    def count(self, table: dict[str, int], key: str) -> None:
        table[key] = table.get(key, 0) + 1

    def count_attempt(self, path: str, attempt: int, fell_back: bool) -> None:
        """``fell_back``: collocated would not be what the request asked for."""
        self.count(self.paths, path)
        if attempt > 0:
            self.count(self.fallbacks, "retry")
        if path == "collocated" and fell_back:
            self.count(self.fallbacks, "collocated")


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """Everything at one moment."""

    now: float
    workers: tuple[WorkerSnapshot, ...]
    requests: tuple[RequestSnapshot, ...]
    counters: Counters
    num_open_legs: int
    fit: StepFit | None = None  # of the step model that the router plans with, if it does


def take_snapshot(
    now: float,
    workers: Iterable[WorkerView],
    requests: Iterable[TrackedRequest],
    counters: Counters,
    num_open_legs: int,
    fit: StepFit | None = None,
) -> ClusterSnapshot:
    """Copies what the central scheduler knows at ``now``."""
    return ClusterSnapshot(
        now,
        tuple(
            WorkerSnapshot(w.worker_id, w.role, w.incarnation, w.ready, w.num_blocks, w.num_legs, w.stats)
            for w in workers
        ),
        tuple(
            RequestSnapshot(
                request_id=t.request.request_id,
                state=t.state.value,
                age_s=now - t.arrived,
                attempt=t.attempt,
                num_prompt_tokens=len(t.request.prompt_token_ids),
                num_output_tokens=len(t.output),
                decision=t.decision,
            )
            for t in requests
        ),
        counters,
        num_open_legs,
        fit,
    )
