"""What can happen to the cluster, and what the central scheduler answers with. Pure data: the simulator and the controller share it."""

from dataclasses import dataclass, field

import msgspec

from nanopd.config import Role
from nanopd.messages import FromWorker, LegTimes, TokenDelta, ToWorker
from nanopd.request import FinishReason, Request
from nanopd.router.plan import Decision

# ---- events


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A request was accepted: validated, tokenised, seed and max_tokens resolved."""

    request: Request


@dataclass(frozen=True, slots=True)
class RequestAborted:
    """The client went away, or a stop string was found in its text (``reason`` STOP),
    or it cannot be served any more (ERROR). Unknown ids are ignored."""

    request_id: str
    reason: FinishReason = FinishReason.ABORT
    error: str | None = None  # with ERROR


@dataclass(frozen=True, slots=True)
class WorkerMessage:
    """A message from a worker. Hello makes it known."""

    worker_id: str
    incarnation: int
    message: FromWorker


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker process ended or was given up: nothing of it can write any more."""

    worker_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class WorkerAdded:
    """A worker is being started under this id and incarnation; it takes work once its Hello has come."""

    worker_id: str
    incarnation: int
    role: Role


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: deadlines are checked."""


Event = RequestArrived | RequestAborted | WorkerMessage | WorkerLost | WorkerAdded | Tick

# ---- commands


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a worker."""

    worker_id: str
    incarnation: int
    message: ToWorker


class EmitTokens(msgspec.Struct, frozen=True, gc=False):
    """Hand new tokens to the client's stream; indexes never repeat and never skip. A struct: one for every token."""

    request_id: str
    delta: TokenDelta


@dataclass(frozen=True, slots=True)
class RequestReport:
    """Where a request's time went; controller's clock, seconds since arrival unless said otherwise."""

    decision: Decision
    num_prompt_tokens: int
    num_output_tokens: int
    num_attempts: int
    ttft_s: float | None  # to the first token
    e2e_s: float
    tpot_s: float | None  # mean time between output tokens after the first
    prefill: LegTimes = LegTimes()
    decode: LegTimes = LegTimes()
    transfer_ms: float = 0.0
    transfer_exposed_ms: float = 0.0
    transfer_bytes: int = 0
    transport: str = ""
    timeline: tuple[tuple[float, str], ...] = field(default=())  # (seconds since arrival, state entered)


@dataclass(frozen=True, slots=True)
class FinishRequest:
    """The request ended: its only terminal command. ``error`` is set exactly when ``reason`` is ERROR or REFUSED."""

    request_id: str
    reason: FinishReason
    report: RequestReport | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RestartWorker:
    """The worker did not answer in time: kill it and start a new incarnation (WorkerLost, then WorkerAdded follow)."""

    worker_id: str
    incarnation: int
    why: str


Command = Send | EmitTokens | FinishRequest | RestartWorker
