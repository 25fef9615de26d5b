"""Always the same path, the least loaded worker for each stage."""

from collections.abc import Collection
from dataclasses import dataclass

from nanopd.config import Role
from nanopd.request import FinishReason, Request, Strategy
from nanopd.router.plan import Candidate, Decision
from nanopd.router.view import ClusterView, WorkerView


def least_prefill(workers: list[WorkerView]) -> WorkerView:
    """The worker with the fewest prompt tokens waiting, then the fewest legs."""
    return min(workers, key=lambda w: (w.num_waiting_prompt_tokens, w.num_legs, w.worker_id))


def least_decode(workers: list[WorkerView]) -> WorkerView:
    """The worker with the fewest sequences decoding."""
    return min(workers, key=lambda w: (w.num_decoding, w.num_waiting_prompt_tokens, w.worker_id))


def collocated_candidate(cluster: ClusterView, avoid: Collection[str] = ()) -> Candidate | None:
    """The least loaded worker for a whole request: a collocated one when there is one, else a decode one, else any (roles are soft)."""
    for roles in ((Role.COLLOCATED,), (Role.DECODE,), ()):
        workers = [w for w in cluster.ready(*roles, avoid=avoid) if w.worker_id not in avoid] or (
            cluster.ready() if not roles else []
        )
        if workers:
            worker = min(workers, key=lambda w: (w.num_legs, w.num_waiting_prompt_tokens, w.worker_id)).worker_id
            return Candidate(worker, worker)
    return None


def disaggregated_candidate(cluster: ClusterView, avoid: Collection[str] = ()) -> Candidate | None:
    """The least loaded prefill worker and decode worker; a collocated one stands in for a missing role. None unless two workers are there."""
    decoders = cluster.ready(Role.DECODE, avoid=avoid) or cluster.ready(Role.COLLOCATED, avoid=avoid)
    prefillers = cluster.ready(Role.PREFILL, avoid=avoid) or cluster.ready(Role.COLLOCATED, avoid=avoid)
    if not decoders or not prefillers:
        return None
    decode = least_decode(decoders).worker_id
    others = [w for w in prefillers if w.worker_id != decode]
    return Candidate(least_prefill(others).worker_id, decode) if others else None


@dataclass(frozen=True, slots=True)
class FixedPathRouter:
    """Collocated or disaggregated as the strategy says; what the strategy asks for but the workers cannot do runs the other way, and says so."""

    def plan(
        self,
        request: Request,
        strategy: Strategy,
        num_output_tokens: int,
        cluster: ClusterView,
        avoid: Collection[str],
        now: float,
    ) -> Decision | None:
        collocated = collocated_candidate(cluster, avoid)
        if strategy is Strategy.COLLOCATED:
            return Decision(collocated, "the strategy is collocated", "fixed") if collocated else None
        disaggregated = disaggregated_candidate(cluster, avoid)
        if disaggregated is not None:
            return Decision(disaggregated, "the strategy is disaggregated", "fixed")
        return (
            Decision(collocated, "no pair of workers for the two stages is up: fallback", "fixed")
            if collocated
            else None
        )

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        """Nothing to learn."""
