"""Policies that count and measure nothing: collocated by turns or by least work, and the thresholds of two well-known routers."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import count

from nanopd.request import FinishReason, Request, Strategy
from nanopd.router.baselines.fixed import FixedPathRouter, disaggregated_candidate, least_prefill
from nanopd.router.plan import Candidate, Decision
from nanopd.router.view import ClusterView, WorkerView


def work_of(worker: WorkerView) -> float:
    """Tokens of work ahead: prompts to prefill, and a decoding sequence counted as 64 prompt tokens."""
    return worker.num_waiting_prompt_tokens + 64.0 * worker.num_decoding


class RoundRobinRouter:
    """Every request on one worker, by turns."""

    def __init__(self) -> None:
        self._turns = count()

    def plan(
        self,
        request: Request,
        strategy: Strategy,
        num_output_tokens: int,
        cluster: ClusterView,
        avoid: Collection[str],
        now: float,
    ) -> Decision | None:
        workers = cluster.ready(avoid=avoid)
        if not workers:
            return None
        worker = workers[next(self._turns) % len(workers)].worker_id
        return Decision(Candidate(worker, worker), f"it is {worker}'s turn", "round-robin")

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True)
class LeastWorkRouter:
    """Every request on the one worker with the least work ahead, whatever its role."""

    def plan(
        self,
        request: Request,
        strategy: Strategy,
        num_output_tokens: int,
        cluster: ClusterView,
        avoid: Collection[str],
        now: float,
    ) -> Decision | None:
        workers = cluster.ready(avoid=avoid)
        if not workers:
            return None
        worker = min(workers, key=lambda w: (work_of(w), w.worker_id))
        return Decision(
            Candidate(worker.worker_id, worker.worker_id), f"the least work, {work_of(worker):.0f} tokens", "least-work"
        )

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True)
class ThresholdRouter:
    """Disaggregates a prompt that is long enough, as long as the prefill workers are not behind.

    Dynamo's conditional disaggregation (v0.2 "disaggregated router"): remote prefill iff prefill_length - prefix_hit > max_local_prefill_length and
    prefill_queue_size < max_prefill_queue_size. llm-d's pd-profile-handler has the first condition only.
    """

    name: str = "dynamo"
    min_prompt_tokens: int = 512
    max_queued_tokens: int | None = 8192  # of the chosen prefill worker; None: no bound (llm-d)
    fixed: FixedPathRouter = FixedPathRouter()

    def plan(
        self,
        request: Request,
        strategy: Strategy,
        num_output_tokens: int,
        cluster: ClusterView,
        avoid: Collection[str],
        now: float,
    ) -> Decision | None:
        if strategy is Strategy.COLLOCATED:
            return self.fixed.plan(request, strategy, num_output_tokens, cluster, avoid, now)
        pair = disaggregated_candidate(cluster, avoid)
        if pair is None:
            return self.fixed.plan(request, Strategy.COLLOCATED, num_output_tokens, cluster, avoid, now)
        num_tokens = len(request.prompt_token_ids) + num_output_tokens
        queued = cluster.workers[pair.prefill_worker].num_waiting_prompt_tokens
        has_room = self.max_queued_tokens is None or queued < self.max_queued_tokens
        if num_tokens > self.min_prompt_tokens and has_room:
            return Decision(pair, f"{num_tokens} prompt tokens are more than {self.min_prompt_tokens}", self.name)
        local = Candidate(pair.decode_worker, pair.decode_worker)
        why = f"{num_tokens} prompt tokens are few" if has_room else f"{queued} tokens wait on {pair.prefill_worker}"
        return Decision(local, f"{why}: prefill on the decode worker", self.name)

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        """Nothing to learn."""


def least_prefill_of(workers: list[WorkerView], but: str) -> WorkerView | None:
    """The worker with the fewest prompt tokens waiting, ``but`` left out."""
    others = [w for w in workers if w.worker_id != but]
    return least_prefill(others) if others else None
