"""Plans scored by expected SLO utility, minus harm to others, minus a price for the workers' time."""

from collections.abc import Callable, Collection
from dataclasses import replace

from nanopd.config import Role
from nanopd.cost_model import HardwareProfile, StepFeatures
from nanopd.request import FinishReason, Request, Strategy
from nanopd.router.adaptive.harm import NO_HARM, harm_on
from nanopd.router.adaptive.options import AdaptiveOptions
from nanopd.router.adaptive.outlook import Outlook, prefill_costs
from nanopd.router.adaptive.prefill_queue import PrefillQueue, Prompt
from nanopd.router.adaptive.prefix_index import PrefixIndex, prefix_chain
from nanopd.router.adaptive.roles import Arrival, RolePlanner
from nanopd.router.adaptive.score import Scorer
from nanopd.router.adaptive.shadow import Shadow
from nanopd.router.adaptive.state import LiveRequest, WorkerState
from nanopd.router.baselines.counting import LeastWorkRouter, work_of
from nanopd.router.baselines.fixed import FixedPathRouter
from nanopd.router.plan import Candidate, Decision
from nanopd.router.predictor import LengthDistribution, LengthKey, LengthPredictor
from nanopd.router.view import ClusterView, WorkerView

NAME = "adaptive"


class AdaptiveRouter:
    """See the package. ``finished`` teaches the output lengths."""

    def __init__(
        self,
        profile: HardwareProfile,
        options: AdaptiveOptions | None = None,
        known_lengths: Callable[[Request], LengthDistribution] | None = None,
    ) -> None:
        """``known_lengths``: an oracle, instead of the predictor (simulation only)."""
        self.options = options or AdaptiveOptions()
        self.predictor = LengthPredictor()
        self._known_lengths = known_lengths
        self._profile = profile
        self._model = profile.step
        self.roles = RolePlanner(profile.step, self.options.ttft_spread, self.options.tpot_spread)
        self._prefixes = PrefixIndex()
        self._live: dict[str, LiveRequest] = {}
        self._states: dict[str, WorkerState] = {}
        self._fixed = FixedPathRouter()
        self._least_work = LeastWorkRouter()

    # ---- the router seam

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
        if strategy is not Strategy.ADAPTIVE:
            return self._fixed.plan(request, strategy, num_output_tokens, cluster, avoid, now)
        if (why := self._why_not(workers)) is not None:
            decision = self._least_work.plan(request, strategy, num_output_tokens, cluster, avoid, now)
            return decision and replace(decision, reason=f"{why}: {decision.reason}", policy=f"{NAME} (fallback)")
        live = self._admit(request, num_output_tokens)
        self.roles.update(workers, now)
        num_tokens = len(request.prompt_token_ids) + num_output_tokens
        chain = prefix_chain(request.prompt_token_ids)
        matches = self._prefixes.matches(chain)
        prefillers, decoders = self._shortlist(workers, matches)
        outlooks = {
            key: self._look(cluster.workers[key], request, live, num_tokens, matches, now)
            for key in {*prefillers, *decoders}
        }
        queues = {key: self._queue_ms(key, outlooks[key]) for key in prefillers}
        shadow = Shadow(queues, self.roles.recent, now, self.options.ttft_spread)
        scorer = Scorer(
            self.options, shadow, self._profile.transfer, live, self._profile.kv_bytes_per_token, self.roles.is_strict
        )
        candidates = [scorer.local(outlooks[key]) for key in prefillers]
        for key in decoders:
            moved = num_tokens - matches.get(key, 0)
            candidates += [scorer.pair(outlooks[other], outlooks[key], moved) for other in prefillers if other != key]
        best = max(candidates, key=lambda c: c.score or 0.0)
        self._commit(best, request, live, outlooks, num_tokens, chain, now)
        return Decision(best, reason_of(best, candidates), NAME, tuple(candidates), matches.get(best.decode_worker, 0))

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        """Teaches the predictor; whatever did not stop by itself is a bound, not a length."""
        live = self._live.pop(request.request_id, None)
        if live is not None and num_output_tokens > 0:
            self.roles.note_output(num_output_tokens)
            self.predictor.observe(live.key, num_output_tokens, reason is not FinishReason.STOP, now)

    # ---- before scoring

    def _why_not(self, workers: list[WorkerView]) -> str | None:
        """Why the cost model is of no use now, if so."""
        if len(workers) < 2:
            return "there is nothing to choose"
        for worker in workers:
            state = self._state(worker)
            stats = worker.stats
            if stats.num_running and state.has_news(stats):
                features = StepFeatures(0, 0.0, 0, stats.num_running, stats.num_context_tokens)
                state.check_model(worker, self._model.predict_ms(features))
        errors = sorted(self._states[w.worker_id].model_error for w in workers)
        error = errors[len(errors) // 2]
        limit = self.options.max_model_error
        return f"steps take {error:.1f} times what the model says" if not 1.0 / limit < error < limit else None

    def _state(self, worker: WorkerView) -> WorkerState:
        state = self._states.get(worker.worker_id)
        if state is None or state.incarnation != worker.incarnation:
            if state is not None:
                self._prefixes.forget(worker.worker_id)
            queue = PrefillQueue(self._model, self.options.chunk_size, self.options.max_num_batched_tokens)
            state = self._states[worker.worker_id] = WorkerState(queue, worker.incarnation)
        return state

    def _admit(self, request: Request, num_output_tokens: int) -> LiveRequest:
        key = LengthKey(len(request.prompt_token_ids), request.sampling.max_tokens or 1, request.tenant)
        before = self._live.get(request.request_id)
        default = self.options.default_slo
        lengths = self._known_lengths(request) if self._known_lengths else self.predictor.distribution(key)
        live = LiveRequest(
            key,
            lengths.conditional(num_output_tokens) if num_output_tokens else lengths,
            request.slo.ttft_ms or default.ttft_ms or 1e9,
            request.slo.tpot_ms or default.tpot_ms or 1e9,
            before.attempt + 1 if before is not None else 0,
        )
        self._live[request.request_id] = live
        return live

    def _shortlist(self, workers: list[WorkerView], matches: dict[str, int]) -> tuple[list[str], list[str]]:
        """Workers worth a look for each stage: those with the least to do, and those that know most of the prompt."""
        size = self.options.shortlist
        if len(workers) <= size:
            every = [w.worker_id for w in workers]
            return every, every
        by_prefill = sorted(workers, key=self._prefill_work)
        by_decode = sorted(workers, key=lambda w: w.num_context_tokens + 256 * w.num_decoding)
        known = sorted((w for w in workers if w.worker_id in matches), key=lambda w: -matches[w.worker_id])[:2]
        in_role = self.roles.prefillers
        first = [
            *[w for w in by_prefill if w.worker_id in in_role][:size],
            *by_prefill[: size // 2],
            *by_decode[:1],
            *known,
        ]
        then = [*[w for w in by_decode if w.worker_id not in in_role][:size], *by_decode[: size // 2], *known]
        return list(dict.fromkeys(w.worker_id for w in first)), list(dict.fromkeys(w.worker_id for w in then))

    def _prefill_work(self, worker: WorkerView) -> float:
        queued = sum(prompt.left for prompt in self._states[worker.worker_id].queue.prompts)
        return queued + work_of(worker)

    # ---- scoring

    def _look(
        self,
        worker: WorkerView,
        request: Request,
        live: LiveRequest,
        num_tokens: int,
        matches: dict[str, int],
        now: float,
    ) -> Outlook:
        options, model = self.options, self._model
        state = self._state(worker)
        state.settle(worker, now)
        num_decodes, context = worker.num_decoding, worker.num_context_tokens
        cached = min(matches.get(worker.worker_id, 0), num_tokens - 1)
        num_new = num_tokens - cached
        step_ms = model.predict_ms(StepFeatures(0, 0.0, 0, num_decodes, context)) if num_decodes else 0.0
        grown_ms = model.predict_ms(StepFeatures(0, 0.0, 0, num_decodes + 1, context + num_tokens))
        waiting_ms = 0.5 * step_ms
        ttft_ms = state.queue.first_token_ms(cached, num_new, request.priority, now, waiting_ms, num_decodes, context)
        prefill_ms, stall_ms = prefill_costs(model, num_new, cached, options.chunk_size, num_decodes, context)
        free = 1.0 - state.inflow(now, options.inflow_window_s)
        growth_ms = grown_ms - step_ms if num_decodes else 0.0
        harm = NO_HARM
        if options.use_externality and num_decodes:
            harm = harm_on(
                worker,
                self._live,
                now,
                step_ms / free,
                stall_ms,
                growth_ms,
                live.expected_total(0),
                options.tpot_spread,
                options.num_sampled_legs,
            )
        return Outlook(
            worker,
            cached,
            num_new,
            ttft_ms,
            prefill_ms,
            stall_ms,
            step_ms,
            grown_ms / free,
            growth_ms,
            harm,
            self._role(worker),
        )

    def _queue_ms(self, worker_id: str, outlook: Outlook) -> tuple[int, float]:
        """Prompts waiting there, and what they take, at the pace of this one."""
        prompts = self._states[worker_id].queue.prompts
        return len(prompts), sum(p.left for p in prompts) * outlook.ms_per_token

    def _role(self, worker: WorkerView) -> Role:
        """The one it has grown into."""
        if not self.roles.prefillers:
            return Role.COLLOCATED
        return Role.PREFILL if worker.worker_id in self.roles.prefillers else Role.DECODE

    # ---- after the choice

    def _commit(
        self,
        best: Candidate,
        request: Request,
        live: LiveRequest,
        outlooks: dict[str, Outlook],
        num_tokens: int,
        chain: list[int],
        now: float,
    ) -> None:
        """What was chosen counts at once, before any worker has heard of it."""
        prefill, decode = outlooks[best.prefill_worker], outlooks[best.decode_worker]
        state = self._state(prefill.worker)
        left = num_tokens - prefill.num_cached_tokens
        prompt = Prompt(request.request_id, live.attempt, request.priority, prefill.num_cached_tokens, left)
        if self.options.use_reservation:
            state.queue.add(prompt, now, 0.5 * prefill.step_ms)
        state.add_inflow(prefill.stall_ms or prefill.prefill_ms, now, self.options.inflow_window_s)
        for outlook in (prefill, decode):
            self._prefixes.note(outlook.worker_id, chain, outlook.worker.num_blocks * outlook.worker.block_size)
        alone_ms, _ = prefill_costs(self._model, left, prefill.num_cached_tokens, self.options.chunk_size, 0, 0)
        self.roles.note(
            Arrival(now, alone_ms, num_tokens, live.expected_total(0), live.ttft_goal_ms, live.tpot_goal_ms)
        )


def reason_of(best: Candidate, candidates: list[Candidate]) -> str:
    """Why, in a sentence."""
    others = [c for c in candidates if c.path != best.path]
    where = (
        f"on {best.prefill_worker}" if best.path == "collocated" else f"{best.prefill_worker} to {best.decode_worker}"
    )
    said = f"{best.path} {where}: {best.utility or 0.0:.0%} of its objectives at a harm of {best.harm or 0.0:.2f} to others"
    if not others:
        return said
    rival = max(others, key=lambda c: c.score or 0.0)
    return f"{said}; the best {rival.path} plan has {rival.utility or 0.0:.0%} and {rival.harm or 0.0:.2f}"
