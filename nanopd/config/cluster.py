"""The set of workers: topology, strategy, deadlines."""

import re
from dataclasses import dataclass
from enum import StrEnum

from nanopd.errors import ConfigError
from nanopd.request import Strategy

POLICIES = (
    "original",
    "fixed",
    "round-robin",
    "least-work",
    "dynamo",
    "llm-d",
    "arrow",
    "taichi",
    "kairos",
    "adaptive",
    "auto",  # adaptive where a profile fits the hardware and model, else original
)  # of the router, for strategy ADAPTIVE; nanopd.router builds them


ON_HOPELESS = ("serve", "reject")  # what becomes of a request whose objectives no plan is likely to keep


class Role(StrEnum):
    """What the router prefers to send a worker. Roles are soft: every worker can do everything."""

    COLLOCATED = "collocated"
    PREFILL = "prefill"
    DECODE = "decode"

    @property
    def letter(self) -> str:
        return self.value[0].upper()


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker to start."""

    worker_id: str  # "prefill-0"
    role: Role
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Topology:
    """How many workers of each role, written ``1C+1P+1D``."""

    num_collocated: int = 0
    num_prefill: int = 0
    num_decode: int = 0

    def __post_init__(self) -> None:
        if min(self.num_collocated, self.num_prefill, self.num_decode) < 0 or self.num_workers == 0:
            raise ConfigError(f"a topology needs at least one worker, got {self}")
        if (self.num_prefill == 0) != (self.num_decode == 0) and self.num_collocated == 0:
            raise ConfigError(f"prefill and decode workers need each other (or a collocated worker), got {self}")

    @classmethod
    def parse(cls, text: str) -> "Topology":
        """Reads ``1C+1P+1D`` (any order, any counts, case-insensitive). Raises ConfigError."""
        counts = {"C": 0, "P": 0, "D": 0}
        for part in text.upper().replace(" ", "").split("+"):
            match = re.fullmatch(r"(\d+)([CPD])", part)
            if match is None:
                raise ConfigError(f"workers must look like 1C+1P+1D (C collocated, P prefill, D decode), got {text!r}")
            counts[match[2]] += int(match[1])
        return cls(counts["C"], counts["P"], counts["D"])

    @property
    def num_workers(self) -> int:
        return self.num_collocated + self.num_prefill + self.num_decode

    def workers(self) -> tuple[WorkerSpec, ...]:
        counts = (
            (Role.COLLOCATED, self.num_collocated),
            (Role.PREFILL, self.num_prefill),
            (Role.DECODE, self.num_decode),
        )
        return tuple(WorkerSpec(f"{role.value}-{i}", role) for role, count in counts for i in range(count))

    def __str__(self) -> str:
        parts = ((self.num_collocated, "C"), (self.num_prefill, "P"), (self.num_decode, "D"))
        return "+".join(f"{count}{letter}" for count, letter in parts if count)


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What the central scheduler decides by, and how long it waits. Every wait has a deadline."""

    topology: Topology = Topology(num_collocated=1)
    strategy: Strategy = Strategy.ADAPTIVE
    policy: str = "auto"  # one of POLICIES: how the router decides
    profile: str | None = None  # what `nanopd profile` wrote, or a bundled one's name; None: the closest bundled one
    on_hopeless: str = (
        "serve"  # or "reject" (policy adaptive): a request that states objectives no plan is likely to keep (429)
    )
    max_queued_requests: int = 256  # accepted and not yet finished; past it new requests are refused (429)
    reserve_timeout_s: float = 30.0  # a decode worker's answer to Reserve; then another plan
    reconcile_grace_s: float = (
        2.0  # how long a leg may be missing from its worker's heartbeats before it counts as lost (its lease)
    )
    queue_timeout_s: float = 300.0  # a request no worker can take
    push_timeout_s: float = 30.0  # a KV push without progress; then it is cancelled and the request planned anew
    abort_timeout_s: float = 30.0  # a worker's answer to Abort; then it counts as lost and is restarted
    heartbeat_interval_s: float = 0.5
    heartbeat_timeout_s: float = 60.0  # silence after which a worker counts as lost (its exit is noticed at once)
    max_attempts: int = 4  # plans tried for one request before it fails
    startup_timeout_s: float = 180.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        if self.on_hopeless not in ON_HOPELESS:
            raise ConfigError(f"on_hopeless must be one of {', '.join(ON_HOPELESS)}, got {self.on_hopeless!r}")
        if self.on_hopeless == "reject" and self.policy != "adaptive":
            raise ConfigError(
                f"on_hopeless 'reject' needs policy 'adaptive', which predicts, got policy {self.policy!r}"
            )
