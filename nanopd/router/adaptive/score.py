"""The score of a plan: what the request can expect, minus what others lose, minus a price for the workers' time. One request kept in full is 1."""

from nanopd.config import Role
from nanopd.cost_model import TransferModel
from nanopd.router.adaptive.options import AdaptiveOptions
from nanopd.router.adaptive.outlook import Outlook
from nanopd.router.adaptive.roles import RolePlanner
from nanopd.router.adaptive.state import LiveRequest
from nanopd.router.adaptive.utility import chance
from nanopd.router.plan import Candidate


class Scorer:
    """Scores plans for one request."""

    def __init__(
        self,
        options: AdaptiveOptions,
        transfer: TransferModel,
        live: LiveRequest,
        kv_bytes_per_token: int,
        roles: RolePlanner,
    ) -> None:
        self._options = options
        self._is_patient = live.tpot_goal_ms >= roles.patient_goal_ms
        self._role_price = max(options.role_price, roles.gain)
        self._transfer = transfer
        self._live = live
        self._bytes_per_token = kv_bytes_per_token
        self._mean = live.lengths.mean

    def prefill_value(self, look: Outlook) -> float:
        """How good a place to prefill, whatever comes after."""
        options, goal = self._options, self._live.ttft_goal_ms
        value = chance(look.ttft_ms, goal, options.ttft_spread) - options.latency_weight * min(2.0, look.ttft_ms / goal)
        value -= options.price_per_s * look.prefill_ms / 1e3 + look.shadow + look.harm.stall
        return value - (self._role_price if look.role is Role.DECODE else 0.0)

    def decode_value(self, look: Outlook) -> float:
        """How good a place to decode, wherever the KV comes from."""
        options, goal = self._options, self._live.tpot_goal_ms
        value = chance(look.token_ms, goal, options.tpot_spread) - options.latency_weight * min(
            2.0, look.token_ms / goal
        )
        value -= options.price_per_s * look.growth_ms * self._mean / 1e3 + look.harm.growth
        return value - (self._role_price if look.role is Role.PREFILL and not self._is_patient else 0.0)

    def local(self, look: Outlook) -> Candidate:
        """Prefill and decode on one worker."""
        return self._score(look, look, look.ttft_ms, 0.0, look.harm.both)

    def pair(self, prefill: Outlook, decode: Outlook, num_moved_tokens: int) -> Candidate:
        """Prefill on one worker, decode on another: its reservation comes first, the KV's last piece after the first token."""
        options = self._options
        ttft_ms = prefill.ttft_ms + 0.5 * decode.step_ms
        last_piece = min(num_moved_tokens, options.chunk_size) * self._bytes_per_token
        share = 1.0 / (1 + len(prefill.worker.legs) // 8)
        gap_ms = self._transfer.transfer_ms(last_piece, share) + (options.pipeline_depth - 0.5) * decode.step_ms
        gap_ms += prefill.follow_ms
        return self._score(prefill, decode, ttft_ms, gap_ms, prefill.harm.stall + decode.harm.growth)

    def _score(self, prefill: Outlook, decode: Outlook, ttft_ms: float, gap_ms: float, harm: float) -> Candidate:
        """``gap_ms``: between the first token and the next, beside a step."""
        options, live, token_ms = self._options, self._live, decode.token_ms
        in_time = chance(ttft_ms, live.ttft_goal_ms, options.ttft_spread)
        tpot_ms = token_ms + gap_ms / max(1.0, self._mean - 1.0)
        utility = in_time * chance(tpot_ms, live.tpot_goal_ms, options.tpot_spread)
        price = options.price_per_s * (prefill.prefill_ms + decode.growth_ms * self._mean) / 1e3
        slack = min(2.0, ttft_ms / live.ttft_goal_ms) + min(2.0, tpot_ms / live.tpot_goal_ms)
        harm += prefill.shadow
        score = utility - price - options.latency_weight * slack - self._role_price * self._out_of_role(prefill, decode)
        return Candidate(
            prefill.worker_id,
            decode.worker_id,
            ttft_ms,
            ttft_ms + gap_ms + token_ms * max(0.0, self._mean - 1.0),
            score - harm if options.use_externality else score,
            tpot_ms,
            utility,
            harm,
            prefill.num_cached_tokens,
        )

    def _out_of_role(self, prefill: Outlook, decode: Outlook) -> float:
        """How far the plan goes against the workers' roles: prefills belong on the busy ones, and so do patient decodes."""
        misplaced = float(prefill.role is Role.DECODE)
        belongs = Role.PREFILL if self._is_patient else Role.DECODE
        is_astray = decode.role not in (belongs, Role.COLLOCATED)
        return misplaced + (min(1.0, self._mean / 100.0) if is_astray else 0.0)
