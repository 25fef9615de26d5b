"""What a router may look at: the workers' load as the central scheduler knows it, more timely than any heartbeat."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from nanopd.config import Role
from nanopd.messages import WorkerStats


@dataclass(slots=True)
class LegLoad:
    """One open leg on a worker."""

    is_prefill: bool  # prefills here (a collocated leg does both)
    is_decode: bool  # decodes here
    num_prompt_tokens: int
    num_output_tokens: int = 0
    prefill_done: bool = False


@dataclass(slots=True)
class WorkerView:
    """One worker. Written by the central scheduler, read by routers."""

    worker_id: str
    role: Role
    incarnation: int = 0
    ready: bool = False
    num_blocks: int = 0
    block_size: int = 16
    max_model_len: int = 0
    kv_bytes_per_token: int = 0
    stats: WorkerStats = field(default_factory=WorkerStats)
    legs: dict[tuple[str, int], LegLoad] = field(default_factory=dict)  # (request id, attempt) -> load

    @property
    def num_legs(self) -> int:
        return len(self.legs)

    @property
    def num_decoding(self) -> int:
        """Sequences that decode here or will (reservations count: they hold blocks)."""
        return sum(leg.is_decode for leg in self.legs.values())

    @property
    def num_waiting_prompt_tokens(self) -> int:
        """Prompt tokens sent here whose prefill is not done."""
        return sum(leg.num_prompt_tokens for leg in self.legs.values() if leg.is_prefill and not leg.prefill_done)


@dataclass(slots=True)
class ClusterView:
    """All workers, by id."""

    workers: dict[str, WorkerView] = field(default_factory=dict)

    def ready(self, *roles: Role, avoid: Iterable[str] = ()) -> list[WorkerView]:
        """Ready workers of any of the roles (all when none is given), those to avoid left out unless nothing else is left."""
        ready = [w for w in self.workers.values() if w.ready and (not roles or w.role in roles)]
        return [w for w in ready if w.worker_id not in avoid] or ready
