"""The original's adaptive policy: disaggregate if and only if its formula expects a smaller total time."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from nanopd.cost_model.original import OriginalParameters
from nanopd.request import FinishReason, Request, Strategy
from nanopd.router.baselines.fixed import FixedPathRouter, collocated_candidate, disaggregated_candidate
from nanopd.router.plan import Decision
from nanopd.router.view import ClusterView


@dataclass(slots=True)
class OriginalRouter:
    """Compares the original's T_coll and T_disagg for the least loaded worker (pair). The mean output length comes from what has finished."""

    parameters: OriginalParameters
    mean_output_len: float = 128.0
    fixed: FixedPathRouter = FixedPathRouter()
    name: str = "original"  # as decisions show it

    def plan(
        self,
        request: Request,
        strategy: Strategy,
        num_output_tokens: int,
        cluster: ClusterView,
        avoid: Collection[str],
        now: float,
    ) -> Decision | None:
        if strategy is not Strategy.ADAPTIVE:
            return self.fixed.plan(request, strategy, num_output_tokens, cluster, avoid, now)
        collocated, disaggregated = collocated_candidate(cluster, avoid), disaggregated_candidate(cluster, avoid)
        if collocated is None or disaggregated is None:
            only = collocated or disaggregated
            return Decision(only, "the only path that is up", self.name) if only else None
        prompt_len = len(request.prompt_token_ids) + num_output_tokens
        load = cluster.workers[collocated.decode_worker].num_decoding
        decode_batch = cluster.workers[disaggregated.decode_worker].num_decoding
        local_ms = self.parameters.collocated_ms(prompt_len, self.mean_output_len, load)
        moved_ms = self.parameters.disaggregated_ms(prompt_len, self.mean_output_len, decode_batch)
        collocated = replace(collocated, total_ms=local_ms, score=-local_ms)
        disaggregated = replace(disaggregated, total_ms=moved_ms, score=-moved_ms)
        chosen = disaggregated if moved_ms < local_ms else collocated
        reason = (
            f"expects {moved_ms:.0f} ms disaggregated against {local_ms:.0f} ms collocated "
            f"({load} running there, {decode_batch} on {disaggregated.decode_worker})"
        )
        return Decision(chosen, reason, self.name, (collocated, disaggregated))

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.mean_output_len += 0.05 * (num_output_tokens - self.mean_output_len)
