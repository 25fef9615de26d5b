"""What a router may look at: the workers' load as the central scheduler knows it, more timely than any heartbeat."""

from collections.abc import Collection
from dataclasses import dataclass, field

from nanopd.config import Role
from nanopd.cost_model import OnlineStepModel
from nanopd.messages import WorkerStats


@dataclass(slots=True)
class LegLoad:
    """One open leg on a worker."""

    is_prefill: bool  # prefills here (a collocated leg does both)
    is_decode: bool  # decodes here
    num_prompt_tokens: int
    num_output_tokens: int = 0
    prefill_done: bool = False
    num_cached_tokens: int = 0  # of the prompt, as the router expected: they need no prefill
    first_token_at: float | None = None  # of this leg, seconds


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

    num_decoding: int = 0  # sequences that decode here or will (reservations count: they hold blocks)
    num_context_tokens: int = 0  # of those, prompt and output
    num_waiting_prompt_tokens: int = 0  # sent here, not found in the prefix cache, prefill not done

    @property
    def num_legs(self) -> int:
        return len(self.legs)

    # ---- kept in step by the central scheduler, so that a router reads totals and not every leg

    def leg_opened(self, key: tuple[str, int], load: LegLoad) -> None:
        self.legs[key] = load
        self._count(load, 1)

    def leg_sampled(self, key: tuple[str, int], num_tokens: int, now: float) -> None:
        """Tokens have come out of a leg, so its prefill is done."""
        load = self.legs[key]
        if load.first_token_at is None:
            load.first_token_at = now
            if load.is_prefill:
                self.num_waiting_prompt_tokens -= load.num_prompt_tokens - load.num_cached_tokens
            load.prefill_done = True
        load.num_output_tokens += num_tokens
        if load.is_decode:
            self.num_context_tokens += num_tokens

    def leg_closed(self, key: tuple[str, int]) -> None:
        load = self.legs.pop(key, None)
        if load is not None:
            self._count(load, -1)

    def _count(self, load: LegLoad, sign: int) -> None:
        if load.is_decode:
            self.num_decoding += sign
            self.num_context_tokens += sign * (load.num_prompt_tokens + load.num_output_tokens)
        if load.is_prefill and not load.prefill_done:
            self.num_waiting_prompt_tokens += sign * (load.num_prompt_tokens - load.num_cached_tokens)


@dataclass(slots=True)
class ClusterView:
    """All workers, by id."""

    workers: dict[str, WorkerView] = field(default_factory=dict)
    step_model: OnlineStepModel | None = None  # of a router that plans with one: heartbeats teach it

    def ready(self, *roles: Role, avoid: Collection[str] = ()) -> list[WorkerView]:
        """Ready workers of any of the roles (all when none is given), those to avoid left out unless nothing else is left."""
        ready = [w for w in self.workers.values() if w.ready and (not roles or w.role in roles)]
        return [w for w in ready if w.worker_id not in avoid] or ready if avoid else ready
