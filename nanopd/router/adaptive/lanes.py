"""What a plan of roles would be worth under a load: a fluid model of two lanes.

::

    busy lane:  k workers prefill; patient requests (a wide TPOT goal) decode there, too
    quiet lane: the others decode the rest, and prefill what the busy lane cannot take in time

A decode step between prompt chunks takes ``step / (1 - share of time that chunks add)``. A prompt waits as in a queue with several servers
(Sakasegawa, 1977), those with an earlier deadline ahead of it.
"""

from dataclasses import dataclass
from math import exp, sqrt
from typing import NamedTuple

from nanopd.cost_model import StepFeatures, StepModel
from nanopd.router.adaptive.utility import chance

_CHUNK = 512  # prompt tokens of a step
_MAX_BATCH = 256
_SPREAD = 0.08  # of the TPOT of single requests around the lane's, and of the load: as a share of the goal
_FULL = 0.95  # share of a lane's time that prompts can take
_KEEPS = (10.0, 0.92, 0.8)  # shares of its time beyond which the busy lane may pass prompts on; the best is taken
_SLACK_WEIGHT = 0.02  # of time saved beyond an objective, to tell equals apart


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the planner needs of a request. Milliseconds."""

    time_s: float
    prefill_ms: float  # alone on a worker
    num_tokens: int
    num_output: float  # expected
    ttft_goal_ms: float
    tpot_goal_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """Requests per second, and some that stand for all."""

    rate: float
    sample: tuple[Arrival, ...]


class LanePlan(NamedTuple):
    """``num_prefill`` workers of the busy lane (0: one lane for everything); TPOT goal from which requests decode there."""

    num_prefill: int
    patient_goal_ms: float


class Lane(NamedTuple):
    """Some workers under a steady load. Milliseconds."""

    num_workers: int
    token_ms: float  # of a decode
    busy: float  # share of time with prompts in the step; above 1: they pile up
    stretch: float  # of a prompt's own time, by the decodes beside it


def value_of(plan: LanePlan, num_workers: int, load: Load, model: StepModel) -> float:
    """Share of objectives that the sample would keep, with a little for being quick."""
    sample = load.sample
    demand = [load.rate * a.num_output / len(sample) for a in sample]  # tokens per second
    work = [load.rate * a.prefill_ms / 1e3 / len(sample) for a in sample]  # workers' time
    if plan.num_prefill == 0:
        lane = _lane(num_workers, sum(work), demand, load.sample, model)
        return _kept(sample, work, lane, [lane] * len(sample), 0.0)
    stays = [a.tpot_goal_ms >= plan.patient_goal_ms for a in sample]
    num_quiet = num_workers - plan.num_prefill
    best = -1.0
    for keeps in _KEEPS:
        spilt = max(0.0, 1.0 - keeps * plan.num_prefill / max(sum(work), 1e-9))
        there = [tokens * (1.0 - spilt) if stay else 0.0 for tokens, stay in zip(demand, stays, strict=True)]
        here = [tokens - moved for tokens, moved in zip(demand, there, strict=True)]
        busy = _lane(plan.num_prefill, sum(work) * (1.0 - spilt), there, sample, model)
        quiet = _lane(num_quiet, sum(work) * spilt, here, sample, model)
        homes = [busy if stay else quiet for stay in stays]
        value = (1.0 - spilt) * _kept(sample, work, busy, homes, 5.0)
        if spilt > 0.0:
            value += spilt * _kept(sample, work, quiet, [quiet] * len(sample), 0.0)
        best = max(best, value)
        if busy.busy <= keeps and keeps < 1.0 or busy.busy <= _KEEPS[-1]:
            break
    return best


def _lane(num_workers: int, work: float, demand: list[float], sample: tuple[Arrival, ...], model: StepModel) -> Lane:
    """Where batch and pace agree."""
    tokens_per_s = sum(demand) / num_workers
    context = sum(d * (a.num_tokens + a.num_output / 2) for d, a in zip(demand, sample, strict=True))
    context /= max(sum(demand), 1e-9)
    chunk_tokens = min(_CHUNK, max(1, sum(a.num_tokens for a in sample) // len(sample)))
    chunk = StepFeatures.of_prefill(chunk_tokens)
    alone_ms = model.predict_ms(chunk)
    chunks_per_ms = work / num_workers / alone_ms
    token_ms = pure_ms = model.predict_ms(StepFeatures(0, 0.0, 0, 1, 0))
    mixed_ms = alone_ms
    for _ in range(4):
        batch = round(min(_MAX_BATCH, tokens_per_s * token_ms / 1e3))
        decodes = StepFeatures(0, 0.0, 0, max(1, batch), round(batch * context))
        pure_ms = model.predict_ms(decodes)
        mixed_ms = model.predict_ms(chunk + decodes) if batch else alone_ms
        # A step with one chunk still gives a token; with chunks of several prompts in it, more are lost: the busier, the more often.
        lost_ms = mixed_ms - (1.0 - 0.5 * min(1.0, chunks_per_ms * mixed_ms)) * pure_ms
        token_ms = 0.5 * token_ms + 0.5 * pure_ms / max(0.03, 1.0 - chunks_per_ms * lost_ms)
    if tokens_per_s * token_ms / 1e3 > _MAX_BATCH:
        token_ms *= 4.0  # more than the batch holds: they pile up
    return Lane(num_workers, token_ms, chunks_per_ms * mixed_ms, mixed_ms / alone_ms)


def _kept(sample: tuple[Arrival, ...], work: list[float], lane: Lane, homes: list[Lane], extra_ms: float) -> float:
    """Prefilled in ``lane``, decoded in each one's home."""
    service = [a.prefill_ms * lane.stretch for a in sample]
    mean = sum(service) / len(service)
    square = sum(ms * ms for ms in service) / len(service)
    residual = square / (2.0 * max(mean, 1e-9))
    total_work, before = max(sum(work), 1e-9), _earlier(sample, work)
    kept = 0.0
    for a, own_ms, home in zip(sample, service, homes, strict=True):
        busy = lane.busy * before[a.ttft_goal_ms] / total_work
        share = min(1.0, _FULL / busy) if busy > 0.0 else 1.0
        busy = min(busy, _FULL)
        waits = busy ** (sqrt(2.0 * (lane.num_workers + 1)) - 1.0)
        wait_ms = residual / (lane.num_workers * (1.0 - busy))
        ttft_ms = own_ms + extra_ms + 0.5 * lane.token_ms
        late = waits * exp(-max(0.0, a.ttft_goal_ms - ttft_ms) / max(wait_ms, 1e-3))
        in_time = share * (1.0 - late) if ttft_ms < a.ttft_goal_ms else 0.0
        slack = min(2.0, home.token_ms / a.tpot_goal_ms) + min(2.0, (ttft_ms + waits * wait_ms) / a.ttft_goal_ms)
        kept += in_time * chance(home.token_ms, a.tpot_goal_ms, _SPREAD) - _SLACK_WEIGHT * slack
    return kept / len(sample)


def _earlier(sample: tuple[Arrival, ...], work: list[float]) -> dict[float, float]:
    """For each TTFT goal, the work of those that have it or a tighter one: they go first."""
    by_goal: dict[float, float] = {}
    for a, own in zip(sample, work, strict=True):
        by_goal[a.ttft_goal_ms] = by_goal.get(a.ttft_goal_ms, 0.0) + own
    total, earlier = 0.0, {}
    for goal in sorted(by_goal):
        total += by_goal[goal]
        earlier[goal] = total
    return earlier
