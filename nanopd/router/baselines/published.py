"""Sketches of three published schedulers, reduced to what a router decides (their changes inside the engine are left out)."""

from collections.abc import Collection

from nanopd.config import Role
from nanopd.cost_model import StepFeatures, StepModel
from nanopd.request import FinishReason, Request, Slo, Strategy
from nanopd.router.baselines.counting import LeastWorkRouter, least_prefill_of
from nanopd.router.baselines.fixed import least_decode, least_prefill
from nanopd.router.plan import Candidate, Decision
from nanopd.router.view import ClusterView, WorkerView

CHUNK = 512  # prompt tokens of a step


class _SloRouter:
    """What the three share: a step model, and the objectives of requests that state none."""

    name = ""

    def __init__(self, model: StepModel, slo: Slo) -> None:
        self._model = model
        self._slo = slo
        self._least_work = LeastWorkRouter()

    def ttft_ms(self, worker: WorkerView, num_tokens: int) -> float:
        """Chunks ahead and ours, each in a step with the decodes there."""
        waiting = worker.num_waiting_prompt_tokens + num_tokens
        step = StepFeatures(CHUNK, CHUNK * CHUNK / 2, 1, worker.num_decoding, worker.num_context_tokens)
        return self._model.predict_ms(step) * -(-waiting // CHUNK)

    def step_ms(self, worker: WorkerView, num_tokens: int) -> float:
        """A decode step once the request is there."""
        return self._model.predict_ms(
            StepFeatures(0, 0.0, 0, worker.num_decoding + 1, worker.num_context_tokens + num_tokens)
        )

    def goals(self, request: Request) -> tuple[float, float]:
        ttft = request.slo.ttft_ms or self._slo.ttft_ms or 1e12
        return ttft, request.slo.tpot_ms or self._slo.tpot_ms or 1e12

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
        if len(workers) < 2 or strategy is Strategy.COLLOCATED:
            return self._least_work.plan(request, strategy, num_output_tokens, cluster, avoid, now)
        return self.choose(request, len(request.prompt_token_ids) + num_output_tokens, workers, now)

    def choose(self, request: Request, num_tokens: int, workers: list[WorkerView], now: float) -> Decision:
        raise NotImplementedError

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        """Nothing to learn."""


class ArrowRouter(_SloRouter):
    """Arrow (Wu et al., arXiv 2505.11916): stateless workers in a prefill and a decode pool. A prompt goes to the prefill worker that would answer
    first; when even that misses the TTFT goal a lightly loaded decode worker changes pools, and back when decodes fall behind."""

    name = "arrow"

    def __init__(self, model: StepModel, slo: Slo) -> None:
        super().__init__(model, slo)
        self._pool: dict[str, Role] = {}

    def choose(self, request: Request, num_tokens: int, workers: list[WorkerView], now: float) -> Decision:
        for index, worker in enumerate(workers):
            default = Role.PREFILL if index % 2 == 0 else Role.DECODE
            self._pool.setdefault(worker.worker_id, default if worker.role is Role.COLLOCATED else worker.role)
        prefillers = [w for w in workers if self._pool[w.worker_id] is Role.PREFILL]
        decoders = [w for w in workers if self._pool[w.worker_id] is Role.DECODE]
        ttft_goal, tpot_goal = self.goals(request)
        if (not prefillers or min(self.ttft_ms(w, num_tokens) for w in prefillers) > ttft_goal) and len(decoders) > 1:
            moved = least_decode(decoders)
            self._pool[moved.worker_id] = Role.PREFILL
            decoders.remove(moved)
            prefillers.append(moved)
        if (not decoders or min(self.step_ms(w, num_tokens) for w in decoders) > tpot_goal) and len(prefillers) > 1:
            moved = least_prefill(prefillers)
            self._pool[moved.worker_id] = Role.DECODE
            prefillers.remove(moved)
            decoders.append(moved)
        prefill = min(prefillers or workers, key=lambda w: (self.ttft_ms(w, num_tokens), w.worker_id))
        decode = min(decoders or workers, key=lambda w: (self.step_ms(w, num_tokens), w.worker_id))
        chosen = Candidate(
            prefill.worker_id,
            decode.worker_id,
            self.ttft_ms(prefill, num_tokens),
            tpot_ms=self.step_ms(decode, num_tokens),
        )
        return Decision(chosen, f"{len(prefillers)} prefill and {len(decoders)} decode workers", self.name)


class TaiChiRouter(_SloRouter):
    """TaiChi (Wang et al., arXiv 2508.01989): workers heavy on prefill and workers heavy on decode, both doing both.

    A prompt goes to a worker that meets its TTFT goal, the one where it degrades the decodes least; decoding flows from a prefill-heavy worker to a
    decode-heavy one when it pays.
    """

    name = "taichi"

    def choose(self, request: Request, num_tokens: int, workers: list[WorkerView], now: float) -> Decision:
        ttft_goal, tpot_goal = self.goals(request)
        half = max(1, len(workers) // 2)
        heavy = {w.worker_id for w in workers if w.role is Role.PREFILL} or {w.worker_id for w in workers[:half]}
        times = {w.worker_id: self.ttft_ms(w, num_tokens) for w in workers}
        in_time = [w for w in workers if times[w.worker_id] <= ttft_goal]
        if in_time:
            prefill = min(
                in_time, key=lambda w: (w.worker_id not in heavy, w.num_decoding, times[w.worker_id], w.worker_id)
            )
        else:
            prefill = min(workers, key=lambda w: (times[w.worker_id], w.worker_id))
        if (
            prefill.worker_id not in heavy
            or self.step_ms(prefill, num_tokens) * 2.0 < tpot_goal
            and prefill.num_waiting_prompt_tokens == 0
        ):
            decode = prefill
        else:
            decode = least_decode([w for w in workers if w.worker_id not in heavy] or workers)
        chosen = Candidate(
            prefill.worker_id, decode.worker_id, times[prefill.worker_id], tpot_ms=self.step_ms(decode, num_tokens)
        )
        return Decision(chosen, f"{len(in_time)} of {len(workers)} workers meet the TTFT goal", self.name)


class KairosRouter(_SloRouter):
    """After Kairos (Wang, arXiv 2605.02329): decode where the slack to the TPOT goal allows one more (the fullest such worker, so that others stay
    free), prefill where the TTFT goal has most slack. Its reordering of the prefill queue by urgency lives in the engine and is left out."""

    name = "kairos"

    def choose(self, request: Request, num_tokens: int, workers: list[WorkerView], now: float) -> Decision:
        ttft_goal, tpot_goal = self.goals(request)
        decoders = [w for w in workers if w.role is not Role.PREFILL] or workers
        within = [w for w in decoders if self.step_ms(w, num_tokens) <= 0.9 * tpot_goal]
        decode = (
            max(within, key=lambda w: (self.step_ms(w, num_tokens), w.worker_id)) if within else least_decode(decoders)
        )
        prefillers = [w for w in workers if w.role is not Role.DECODE]
        prefill = least_prefill_of(prefillers, decode.worker_id) or decode
        ttft = self.ttft_ms(prefill, num_tokens)
        reason = f"TTFT slack {ttft_goal - ttft:.0f} ms, {len(within)} decode workers within their TPOT goal"
        chosen = Candidate(prefill.worker_id, decode.worker_id, ttft, tpot_ms=self.step_ms(decode, num_tokens))
        return Decision(chosen, reason, self.name)
