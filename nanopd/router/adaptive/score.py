"""The score of a plan: what the request can expect, minus what others lose, minus a price for the workers' time. One request kept in full is 1."""

from nanopd.config import Role
from nanopd.cost_model import TransferModel
from nanopd.router.adaptive.options import AdaptiveOptions
from nanopd.router.adaptive.outlook import Outlook
from nanopd.router.adaptive.shadow import Shadow
from nanopd.router.adaptive.state import LiveRequest
from nanopd.router.adaptive.utility import chance
from nanopd.router.plan import Candidate

QUANTILES = (0.15, 0.5, 0.85)  # of the output length: they stand for its distribution


class Scorer:
    """Scores plans for one request."""

    def __init__(
        self,
        options: AdaptiveOptions,
        shadow: Shadow,
        transfer: TransferModel,
        live: LiveRequest,
        kv_bytes_per_token: int,
        strict_roles: bool,
    ) -> None:
        self._options = options
        self._shadow = shadow
        self._role_price = options.strict_role_price if strict_roles else options.role_price
        self._transfer = transfer
        self._live = live
        self._bytes_per_token = kv_bytes_per_token
        self._mean = live.lengths.mean
        lengths = [live.lengths.quantile(q) for q in QUANTILES] if options.use_posterior else [self._mean]
        self._lengths = [max(2.0, length) for length in lengths]

    def local(self, look: Outlook) -> Candidate:
        """Prefill and decode on one worker."""
        return self._score(look, look, look.ttft_ms, look.token_ms, 0.0, look.harm.both)

    def pair(self, prefill: Outlook, decode: Outlook, num_moved_tokens: int) -> Candidate:
        """Prefill on one worker, decode on another: its reservation comes first, the KV's last piece after the first token."""
        ttft_ms = prefill.ttft_ms + 0.5 * decode.step_ms
        last_piece = min(num_moved_tokens, self._options.chunk_size) * self._bytes_per_token
        share = 1.0 / (1 + len(prefill.worker.legs) // 8)
        gap_ms = self._transfer.transfer_ms(last_piece, share) + 0.5 * decode.step_ms + (0.5 * prefill.step_ms)
        harm = prefill.harm.stall + decode.harm.growth
        return self._score(prefill, decode, ttft_ms, decode.token_ms, gap_ms, harm)

    def _score(
        self, prefill: Outlook, decode: Outlook, ttft_ms: float, token_ms: float, gap_ms: float, harm: float
    ) -> Candidate:
        """``gap_ms``: between the first token and the next, beside a step."""
        options, live = self._options, self._live
        in_time = chance(ttft_ms, live.ttft_goal_ms, options.ttft_spread)
        tpots = [token_ms + gap_ms / (length - 1.0) for length in self._lengths]
        steady = sum(chance(tpot, live.tpot_goal_ms, options.tpot_spread) for tpot in tpots) / len(tpots)
        tpot_ms = tpots[len(tpots) // 2]
        utility = in_time * steady
        price = options.price_per_s * (prefill.prefill_ms + decode.growth_ms * self._mean) / 1e3
        slack = min(2.0, ttft_ms / live.ttft_goal_ms) + min(2.0, tpot_ms / live.tpot_goal_ms)
        score = utility - price - options.latency_weight * slack - self._role_price * self._out_of_role(prefill, decode)
        if options.use_externality:
            harm += self._shadow.harm(prefill.worker_id, prefill.prefill_ms)
            score -= harm
        return Candidate(
            prefill.worker_id,
            decode.worker_id,
            ttft_ms,
            ttft_ms + gap_ms + token_ms * max(0.0, self._mean - 1.0),
            score,
            tpot_ms,
            utility,
            harm,
            prefill.num_cached_tokens,
        )

    def _out_of_role(self, prefill: Outlook, decode: Outlook) -> float:
        """How far the plan goes against the workers' roles."""
        misplaced = min(1.0, prefill.prefill_ms / 30.0) if prefill.role is Role.DECODE else 0.0
        return misplaced + (min(1.0, self._mean / 100.0) if decode.role is Role.PREFILL else 0.0)
