"""The workers as the central scheduler knows them: role, incarnation, load, and when each was last heard of."""

from nanopd.cluster.leg_book import LegKind, OpenLeg
from nanopd.config import Role
from nanopd.messages import Hello
from nanopd.router import ClusterView, LegLoad, WorkerView


class Registry:
    """Keeps the view that routers read."""

    def __init__(self) -> None:
        self.view = ClusterView()
        self._heard_at: dict[str, float] = {}

    def add(self, worker_id: str, incarnation: int, role: Role) -> None:
        """A new worker, or a new incarnation of one; not ready before its Hello."""
        self.view.workers[worker_id] = WorkerView(worker_id, role, incarnation)

    def __getitem__(self, worker_id: str) -> WorkerView:
        return self.view.workers[worker_id]

    def current(self, worker_id: str, incarnation: int) -> WorkerView | None:
        """The worker, unless it is unknown or this is an earlier incarnation of it."""
        worker = self.view.workers.get(worker_id)
        return worker if worker is not None and worker.incarnation == incarnation else None

    def hello(self, worker: WorkerView, hello: Hello) -> None:
        worker.ready = True
        worker.num_blocks = hello.num_blocks
        worker.block_size = hello.block_size
        worker.max_model_len = hello.max_model_len
        worker.kv_bytes_per_token = hello.kv_bytes_per_token

    def heard(self, worker: WorkerView, now: float) -> None:
        self._heard_at[worker.worker_id] = now

    def heard_at(self, worker: WorkerView) -> float:
        """Seconds on the controller's clock."""
        return self._heard_at[worker.worker_id]

    # ---- load

    def leg_opened(self, entry: OpenLeg, num_prompt_tokens: int, num_cached_tokens: int) -> None:
        """``num_cached_tokens``: of the prompt, as the router expects them in the worker's prefix cache."""
        load = LegLoad(
            entry.kind is not LegKind.DECODE,
            entry.kind is not LegKind.PREFILL,
            num_prompt_tokens,
            num_cached_tokens=num_cached_tokens if entry.kind is not LegKind.DECODE else 0,
        )
        self[entry.worker_id].leg_opened((entry.leg.request_id, entry.leg.attempt), load)

    def leg_sampled(self, entry: OpenLeg, num_tokens: int, now: float) -> None:
        """Tokens have come out of a leg, so its prefill is done."""
        self[entry.worker_id].leg_sampled((entry.leg.request_id, entry.leg.attempt), num_tokens, now)

    def leg_closed(self, entry: OpenLeg) -> None:
        worker = self.current(entry.worker_id, entry.incarnation)
        if worker is not None:
            worker.leg_closed((entry.leg.request_id, entry.leg.attempt))
