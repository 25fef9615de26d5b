"""What the dashboard's feed says. ``nanopd top`` decodes the same types."""

from dataclasses import dataclass

from nanopd.cluster.events import RequestReport
from nanopd.cluster.snapshot import Counters, WorkerSnapshot
from nanopd.cost_model import StepFit
from nanopd.request import FinishReason
from nanopd.router.plan import Decision
from nanopd.server.dashboard.phases import Phase, Stage


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What does not change while the server runs."""

    model: str
    version: str
    topology: str  # 1C+1P+1D
    strategy: str
    policy: str  # by which strategy adaptive decides
    max_model_len: int


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A request that has not ended."""

    request_id: str
    stage: Stage
    state: str
    age_s: float
    attempt: int
    num_prompt_tokens: int
    num_output_tokens: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that has. ``number`` counts them from 1; a reader who has seen number n wants those after n."""

    number: int
    request_id: str
    ended_at: float  # on the feed's clock
    reason: FinishReason
    error: str | None
    report: RequestReport | None
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Live:
    """The cluster at one moment; times in seconds on the feed's clock."""

    now: float
    server: ServerFacts
    workers: tuple[WorkerSnapshot, ...]
    stages: dict[Stage, int]  # all unfinished requests
    requests: tuple[LiveRequest, ...]  # the oldest of them
    counters: Counters
    tokens_per_s: tuple[int, ...]  # output tokens of the last whole seconds, the latest last
    fit: StepFit | None = None  # how well the router foresees steps, if it does


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of the feed."""

    live: Live
    finished: tuple[FinishedRequest, ...]  # oldest first
