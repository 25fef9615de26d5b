"""Plans scored by expected SLO utility, minus harm to others, minus a price for the workers' time."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from heapq import nlargest

from nanopd.config import Role
from nanopd.cost_model import HardwareProfile, OnlineStepModel, StepFeatures, StepPredictor
from nanopd.request import FinishReason, Request, Slo, Strategy
from nanopd.router.adaptive.chunks import packed_prefill_ms, prefill_costs
from nanopd.router.adaptive.harm import NO_HARM, Slowing, harm_on
from nanopd.router.adaptive.lanes import Arrival
from nanopd.router.adaptive.options import AdaptiveOptions
from nanopd.router.adaptive.outlook import Outlook
from nanopd.router.adaptive.prefill_queue import PrefillQueue, Prompt
from nanopd.router.adaptive.prefix_index import PrefixIndex, prefix_chain
from nanopd.router.adaptive.roles import RolePlanner
from nanopd.router.adaptive.score import Scorer
from nanopd.router.adaptive.shadow import Shadow
from nanopd.router.adaptive.state import LiveRequest, WorkerState
from nanopd.router.baselines.counting import LeastWorkRouter
from nanopd.router.baselines.fixed import FixedPathRouter
from nanopd.router.plan import Candidate, Decision
from nanopd.router.predictor import LengthDistribution, LengthPredictor
from nanopd.router.view import ClusterView, WorkerView

NAME = "adaptive"
CLASS = 1 << 42  # between two priorities of requests: room for deadlines in milliseconds
LATE = CLASS >> 1  # behind all deadlines of the same priority
_HOPELESS = 0.05  # chance to keep its objectives below which a request is hopeless
MOST = 1 << 20  # of a request's priority that is told apart: messages carry 64 bits


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
        self._live_model = OnlineStepModel(profile.step)
        self._model: StepPredictor = self._live_model if self.options.use_live_steps else profile.step
        self.roles = RolePlanner(self._model)
        self._prefixes = PrefixIndex()
        self._live: dict[str, LiveRequest] = {}
        self._rounds: Iterator[str] = iter(())  # of the running requests, to tell the predictor how far they have got
        self._states: dict[str, WorkerState] = {}
        self._num_decisions = 0
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
        cluster.step_model = self._live_model
        workers = cluster.ready(avoid=avoid)
        if strategy is not Strategy.ADAPTIVE:
            return self._fixed.plan(request, strategy, num_output_tokens, cluster, avoid, now)
        if (why := self._why_not(workers)) is not None:
            decision = self._least_work.plan(request, strategy, num_output_tokens, cluster, avoid, now)
            return decision and replace(decision, reason=f"{why}: {decision.reason}", policy=f"{NAME} (fallback)")
        chain = prefix_chain(request.prompt_token_ids)
        live, options = self._admit(request, num_output_tokens, chain), self.options
        if self._num_decisions % 2:  # by turns: decisions should be quick
            self._report_one(cluster, now)
        elif options.use_roles:
            self.roles.update(workers, now)
        num_tokens = len(request.prompt_token_ids) + num_output_tokens
        matches = self._prefixes.matches(chain)
        prefillers, decoders = self._shortlist(workers, matches)
        shadow = None
        if options.use_shadow:
            goal_ms = live.ttft_goal_ms if options.use_deadlines else 0.0
            shadow = Shadow(self.roles.recent, goal_ms, len(workers), now, options.ttft_spread)
        may_prefill = set(prefillers)
        outlooks = {
            key: self._look(
                cluster.workers[key], live, num_tokens, matches.get(key, 0), now, key in may_prefill, shadow
            )
            for key in dict.fromkeys([*prefillers, *decoders])
        }
        transfer, bytes_per_token = self._profile.transfer, self._profile.kv_bytes_per_token
        scorer = Scorer(options, transfer, live, bytes_per_token, self.roles)
        candidates = [scorer.local(outlooks[key]) for key in prefillers]
        first = nlargest(options.num_paired, prefillers, key=lambda key: scorer.prefill_value(outlooks[key]))
        for key in nlargest(options.num_paired, decoders, key=lambda key: scorer.decode_value(outlooks[key])):
            moved = num_tokens - matches.get(key, 0)
            candidates += [scorer.pair(outlooks[other], outlooks[key], moved) for other in first if other != key]
        best = max(candidates, key=lambda c: c.score or 0.0)
        may_refuse = options.rejects_hopeless and request.slo != Slo() and not num_output_tokens
        if may_refuse and max(c.utility or 0.0 for c in candidates) < _HOPELESS:
            del self._live[request.request_id]
            reason = f"no plan is likely to keep its objectives; {reason_of(best, candidates)}"
            return Decision(best, reason, NAME, tuple(candidates), refused=True)
        is_late = options.defers_late and (best.ttft_ms or 0.0) > live.ttft_goal_ms
        if is_late:
            live.priority += LATE
        self._commit(best, request, live, outlooks, num_tokens, chain, now)
        reason = reason_of(best, candidates)
        if is_late:
            reason += "; its first token would be late, so it waits behind the others"
        resident = matches.get(best.decode_worker, 0)
        return Decision(best, reason, NAME, tuple(candidates), resident, live.priority)

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        """Teaches the predictor; whatever did not stop by itself is a bound, not a length."""
        live = self._live.pop(request.request_id, None)
        if live is not None and num_output_tokens > 0:
            is_bound = reason is not FinishReason.STOP
            self.predictor.observe(live.key, num_output_tokens, is_bound, now, min(live.told, num_output_tokens))

    # ---- before scoring

    def _report_one(self, cluster: ClusterView, now: float) -> None:
        """Tells the predictor how far one of the running requests has got, by turns: else only short answers would be known at first."""
        name = next(self._rounds, None)
        if name is None:
            self._rounds = iter(list(self._live))
            return
        live = self._live.get(name)
        worker = cluster.workers.get(live.decode_worker) if live is not None else None
        leg = worker.legs.get((name, live.attempt)) if live is not None and worker is not None else None
        if live is not None and leg is not None and leg.num_output_tokens >= 2 * live.told + 8:
            self.predictor.observe(live.key, leg.num_output_tokens, True, now, live.told)
            live.told = leg.num_output_tokens

    def _why_not(self, workers: list[WorkerView]) -> str | None:
        """Why the cost model is of no use now, if so."""
        if len(workers) < 2:
            return "there is nothing to choose"
        self._num_decisions += 1
        model, limit = self._live_model, self.options.max_model_error
        ratio = model.ratio if self.options.use_live_steps else model.offline_ratio
        return f"steps take {ratio:.1f} times what the model says" if not 1.0 / limit < ratio < limit else None

    def _state(self, worker: WorkerView) -> WorkerState:
        state = self._states.get(worker.worker_id)
        if state is None or state.incarnation != worker.incarnation:
            if state is not None:
                self._prefixes.forget(worker.worker_id)
            options = self.options
            queue = PrefillQueue(
                self._model, options.chunk_size, options.max_num_batched_tokens, options.pipeline_depth
            )
            state = self._states[worker.worker_id] = WorkerState(queue, worker.incarnation)
        return state

    def _admit(self, request: Request, num_output_tokens: int, chain: list[int]) -> LiveRequest:
        before = self._live.get(request.request_id)
        max_tokens = request.sampling.max_tokens or 1
        key = (
            before.key
            if before
            else self.predictor.key(len(request.prompt_token_ids), max_tokens, request.tenant, chain)
        )
        default = self.options.default_slo
        lengths = self._known_lengths(request) if self._known_lengths else self.predictor.distribution(key)
        if not self.options.use_posterior:
            lengths = LengthDistribution.certain(max(1, round(lengths.mean)))
        live = LiveRequest(
            key,
            lengths.conditional(num_output_tokens) if num_output_tokens else lengths,
            request.slo.ttft_ms or default.ttft_ms or 1e9,
            request.slo.tpot_ms or default.tpot_ms or 1e9,
            before.attempt + 1 if before is not None else 0,
        )
        live.priority = self._priority(request, live)
        self._live[request.request_id] = live
        return live

    def _priority(self, request: Request, live: LiveRequest) -> int:
        """Of the request in its workers' queues: its own first, then the earliest deadline."""
        own = max(-MOST, min(MOST, request.priority)) * CLASS
        if not self.options.use_deadlines:
            return own
        return own + round(request.arrival_time * 1e3 + min(live.ttft_goal_ms, 1e6))

    def _shortlist(self, workers: list[WorkerView], matches: dict[str, int]) -> tuple[list[str], list[str]]:
        """Workers worth a look for each stage: those with the least to do, in their role and in all, and those that know most of the prompt."""
        size = self.options.shortlist
        if len(workers) <= 2 * size:
            every = [w.worker_id for w in workers]
            return every, every
        busy, states = self.roles.prefillers, self._states
        promised = [states[w.worker_id].num_promised_tokens if w.worker_id in states else 0 for w in workers]
        prompts = [w.num_waiting_prompt_tokens + p + w.num_decoding for w, p in zip(workers, promised, strict=True)]
        decodes = [w.num_context_tokens + 256 * w.num_decoding for w in workers]
        by_prompts = sorted(range(len(workers)), key=prompts.__getitem__)
        by_decodes = sorted(range(len(workers)), key=decodes.__getitem__)
        first, then = by_prompts[: size - 1] + by_decodes[:1], by_decodes[: size - 1]
        if busy:
            is_busy = [w.worker_id in busy for w in workers]
            first += [i for i in by_prompts if is_busy[i]][:size]
            then += [i for i in by_decodes if not is_busy[i]][:size]
        ids = [w.worker_id for w in workers]
        known = nlargest(2, (key for key in matches if key in states), key=matches.__getitem__) if matches else []
        known = [key for key in known if key in ids]
        return list(dict.fromkeys([*(ids[i] for i in first), *known])), list(
            dict.fromkeys([*(ids[i] for i in then), *known])
        )

    # ---- scoring

    def _look(
        self,
        worker: WorkerView,
        live: LiveRequest,
        num_tokens: int,
        num_matched: int,
        now: float,
        may_prefill: bool,
        shadow: Shadow | None,
    ) -> Outlook:
        """``may_prefill``: else the worker is only asked what a decode would meet there."""
        options, model, state = self.options, self._model, self._state(worker)
        num_decodes, context = worker.num_decoding, worker.num_context_tokens
        step_ms = model.predict_ms(StepFeatures(0, 0.0, 0, num_decodes, context)) if num_decodes else 0.0
        grown_ms = model.predict_ms(StepFeatures(0, 0.0, 0, num_decodes + 1, context + num_tokens))
        growth_ms = grown_ms - step_ms if num_decodes else 0.0
        free = 1.0 - state.inflow(now, options.inflow_window_s)
        cached = min(num_matched, num_tokens - 1)
        num_new, ttft_ms, prefill_ms, stall_ms, follow_ms, later = num_tokens - cached, 0.0, 0.0, 0.0, 0.0, 0.0
        if may_prefill:
            state.settle(worker, now)
            queue, wait_ms = state.queue, (options.pipeline_depth - 0.5) * step_ms
            ttft_ms = queue.first_token_ms(cached, num_new, live.priority, now, wait_ms, num_decodes, context)
            prefill_ms, stall_ms = prefill_costs(model, num_new, cached, options.chunk_size, num_decodes, context)
            queued, ms_per_token = queue.num_tokens, prefill_ms / num_new
            follow_ms = min(queued, options.max_num_batched_tokens) * ms_per_token + 0.5 * step_ms
            if shadow is not None:
                later = shadow.harm(len(queue.prompts), queued * ms_per_token, prefill_ms)
        harm = NO_HARM
        if options.use_externality and num_decodes:
            slowed = Slowing(step_ms / free, stall_ms, growth_ms, live.expected_total(0))
            harm = harm_on(worker, self._live, now, slowed, options.tpot_spread, options.num_sampled_legs)
        role = self._role(worker)
        return Outlook(
            worker,
            cached,
            num_new,
            ttft_ms,
            prefill_ms,
            stall_ms,
            follow_ms,
            step_ms,
            grown_ms / free,
            growth_ms,
            harm,
            role,
            later,
        )

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
        prompt = Prompt(request.request_id, live.attempt, live.priority, prefill.num_cached_tokens, left)
        if self.options.use_reservation:
            state.queue.add(prompt, now, 0.5 * prefill.step_ms)
            state.num_promised_tokens += left
        # Between what one chunk in a step costs decodes and what many do.
        lost_ms = 0.5 * (prefill.stall_ms + prefill.prefill_ms)
        state.add_inflow(lost_ms, now, self.options.inflow_window_s)
        for outlook in (prefill, decode):
            self._prefixes.note(outlook.worker_id, chain, outlook.worker.num_blocks * outlook.worker.block_size)
        live.decode_worker = best.decode_worker
        alone_ms, _ = prefill_costs(self._model, left, prefill.num_cached_tokens, self.options.chunk_size, 0, 0)
        packed_ms = packed_prefill_ms(
            self._model, left, prefill.num_cached_tokens, self.options.chunk_size, self.options.max_num_batched_tokens
        )
        self.roles.note(
            Arrival(now, alone_ms, packed_ms, num_tokens, live.expected_total(0), live.ttft_goal_ms, live.tpot_goal_ms)
        )


def reason_of(best: Candidate, candidates: list[Candidate]) -> str:
    """Why, in a sentence."""
    others = [c for c in candidates if c.path != best.path]
    where = (
        f"on {best.prefill_worker}" if best.path == "collocated" else f"{best.prefill_worker} to {best.decode_worker}"
    )
    said = f"{best.path} {where}: {best.utility or 0.0:.0%} likely to keep its objectives, harm to others {best.harm or 0.0:.2f}"
    if not others:
        return said
    rival = max(others, key=lambda c: c.score or 0.0)
    return f"{said}; the best {rival.path} plan has {rival.utility or 0.0:.0%} and {rival.harm or 0.0:.2f}"
