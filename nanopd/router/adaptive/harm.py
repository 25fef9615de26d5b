"""What a plan does to the requests that already decode on a worker: a prefill stalls them once, a larger batch slows every step."""

from collections.abc import Mapping
from typing import NamedTuple

from nanopd.router.adaptive.state import LiveRequest
from nanopd.router.adaptive.utility import chance
from nanopd.router.view import WorkerView

_SAFE = 0.75  # of the goal: below it nothing is at stake


class Harm(NamedTuple):
    """Expected number of requests that lose their TPOT objective."""

    stall: float  # by the prefill alone
    growth: float  # by the larger batch alone
    both: float


NO_HARM = Harm(0.0, 0.0, 0.0)


class Slowing(NamedTuple):
    """What a plan does to a worker's steps."""

    step_ms: float  # of a token here, now
    stall_ms: float  # once, by the prefill
    growth_ms: float  # of every step, by one more sequence
    num_tokens: float  # for so many steps


def harm_on(
    worker: WorkerView, live: Mapping[str, LiveRequest], now: float, slowing: Slowing, spread: float, max_legs: int
) -> Harm:
    """Estimated on ``max_legs`` legs."""
    step_ms, stall_ms, growth_ms, num_tokens = slowing
    legs = list(worker.legs.items())
    stride = -(-len(legs) // max_legs) if legs else 1
    stall = growth = both = 0.0
    for (request_id, _), leg in legs[::stride]:
        request = live.get(request_id)
        if request is None or not leg.is_decode:
            continue
        age = leg.num_output_tokens
        left = max(1.0, request.expected_total(age) - age)
        total = age + left
        so_far = (now - leg.first_token_at) * 1e3 if leg.first_token_at is not None else 0.0
        base = (so_far + left * step_ms) / total
        grown = growth_ms * min(left, num_tokens) / total
        stalled = stall_ms / total if leg.prefill_done or not leg.is_prefill else 0.0
        goal = request.tpot_goal_ms
        if base + grown + stalled < _SAFE * goal:
            continue
        kept = chance(base, goal, spread)
        stall += kept - chance(base + stalled, goal, spread)
        growth += kept - chance(base + grown, goal, spread)
        both += kept - chance(base + grown + stalled, goal, spread)
    return Harm(stall * stride, growth * stride, both * stride)
