"""What a plan of roles would be worth under a load: a fluid model of two lanes.

::

    busy lane:  k workers prefill; patient requests (a wide TPOT goal) decode there, too
    quiet lane: the others decode the rest, and prefill what would be late in the busy lane

A decode step between prompt chunks takes ``step / (1 - share of time that chunks add)``, at most a step full of prompts. A prompt waits as in a queue
with several servers, those with an earlier deadline ahead of it; who would wait longer than the deadline allows turns away (Barrer, 1957).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import exp, hypot, sqrt
from operator import itemgetter
from typing import NamedTuple

from nanopd.cost_model import StepFeatures, StepPredictor
from nanopd.router.adaptive.utility import chance
from nanopd.scheduler.plan import tokens_beside

_CHUNK, _BUDGET = 512, 2048  # prompt tokens of a request in a step, and of all
_MAX_BATCH = 256
_SPREAD = 0.04  # of the TPOT of single requests around the lane's under a steady load
_HAND_OFF_MS = 5.0  # that a reservation elsewhere adds to a first token
_PASSED = (0.0, 0.5, 1.0)  # shares of the late prompts that the quiet lane may take; the best is taken
_FEW_LATE = 0.005  # share of prompts below which it does not matter who takes them
_SLACK_WEIGHT = 0.02  # of time saved beyond an objective, to tell equals apart


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the planner needs of a request. Milliseconds."""

    time_s: float
    prefill_ms: float  # alone on a worker
    packed_ms: float  # as its share of full steps: all that it takes of a busy worker
    num_tokens: int
    num_output: float  # expected
    ttft_goal_ms: float
    tpot_goal_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """Requests per second, and some that stand for all, those with the tightest TTFT goals first."""

    rate: float
    sample: tuple[Arrival, ...]


class LanePlan(NamedTuple):
    """``num_prefill`` workers of the busy lane (0: one lane for everything); TPOT goal from which requests decode there."""

    num_prefill: int
    patient_goal_ms: float


class Lane(NamedTuple):
    """Some workers under a steady load."""

    num_workers: int
    token_ms: float  # of a decode
    spread: float  # of the TPOT of single requests, as a share of it
    stretch: float  # of a prompt's own time, by the decodes beside it


def value_of(plan: LanePlan, num_workers: int, load: Load, model: StepPredictor) -> Generator[None, None, float]:
    """Share of objectives that the sample would keep, with a little for being quick.

    Pauses now and then, so that no caller has to wait for all of it.
    """
    sample = load.sample
    rates = [load.rate / len(sample)] * len(sample)
    if plan.num_prefill == 0:
        lane = _lane(num_workers, sample, rates, rates, model)
        return _value(sample, _in_time(lane, sample, rates, 0.0), [lane] * len(sample))
    stays = [a.tpot_goal_ms >= plan.patient_goal_ms for a in sample]
    decodes = [rate if stay else 0.0 for rate, stay in zip(rates, stays, strict=True)]
    busy = _lane(plan.num_prefill, sample, rates, decodes, model)
    in_time = _in_time(busy, sample, rates, _HAND_OFF_MS)
    passable = 1.0 - sum(in_time) / len(in_time)
    best = -1.0
    for share in _PASSED if passable > _FEW_LATE else (0.0,):
        yield
        passed = [rate * share * (1.0 - kept) for rate, kept in zip(rates, in_time, strict=True)]
        here = [p if stay else r for p, r, stay in zip(passed, rates, stays, strict=True)]
        quiet = _lane(num_workers - plan.num_prefill, sample, passed, here, model)
        value = _value(sample, in_time, [busy if stay else quiet for stay in stays])
        if share > 0.0:
            caught = [p / r * k for p, r, k in zip(passed, rates, _in_time(quiet, sample, passed, 0.0), strict=True)]
            value += _value(sample, caught, [quiet] * len(sample))
        best = max(best, value)
    return best


def _lane(
    num_workers: int,
    sample: Sequence[Arrival],
    prefills: Sequence[float],
    decodes: Sequence[float],
    model: StepPredictor,
) -> Lane:
    """Where batch and pace agree. ``prefills``, ``decodes``: requests per second like each of the sample."""
    demand = [rate * a.num_output for rate, a in zip(decodes, sample, strict=True)]  # tokens per second
    tokens_per_s = sum(demand) / num_workers
    context = sum([d * (a.num_tokens + 0.5 * a.num_output) for d, a in zip(demand, sample, strict=True)])
    context /= max(sum(demand), 1e-9)
    count = min(_CHUNK, max(1, sum([a.num_tokens for a in sample]) // len(sample)))
    num_abreast = _BUDGET // count
    keys = 0.5 * sum([a.num_tokens**2 for a in sample]) / sum([a.num_tokens for a in sample])  # that a token reads
    alone_ms = model.predict_ms(StepFeatures(count, count * keys, 1))
    full_ms = model.predict_ms(StepFeatures(num_abreast * count, num_abreast * count * keys, num_abreast))
    busy = sum([r * a.prefill_ms for r, a in zip(prefills, sample, strict=True)]) / 1e3 / num_workers
    company = min(1.0, busy)  # of other prompts in a step
    token_ms = idle_ms = model.predict_ms(StepFeatures(0, 0.0, 0, 1, 0))
    stretch = 1.0
    for _ in range(4):
        batch = round(min(_MAX_BATCH, tokens_per_s * token_ms / 1e3))
        step = StepFeatures(0, 0.0, 0, max(1, batch), round(batch * context))
        pure_ms, packed_ms = model.predict_ms(step), full_ms
        added = 1.0  # to steps, by a millisecond of prompts: every step gives a token, those with prompts in it too
        if batch:
            mixed_ms, part = _beside(step, count, 1, keys, model)
            packed_ms, packed_part = _beside(step, count, num_abreast, keys, model)
            stretch = (1.0 - company) * mixed_ms / (alone_ms * part) + company * packed_ms / (full_ms * packed_part)
            added = (1.0 - company) * (mixed_ms - pure_ms) / (alone_ms * part)
            added += company * (packed_ms - pure_ms) / (full_ms * packed_part)
        between_ms = pure_ms / max(0.03, 1.0 - busy * max(0.0, added))
        token_ms = 0.5 * token_ms + 0.5 * min(between_ms, max(packed_ms, pure_ms))  # at worst each is full of prompts
    if tokens_per_s * token_ms / 1e3 > _MAX_BATCH:
        token_ms *= 4.0  # more than the batch holds: they pile up
    if tokens_per_s <= 0.0:
        return Lane(num_workers, token_ms, _SPREAD, stretch)
    # While an answer comes out, as many requests come as chance has it: the less the fewer workers share them.
    share = min(0.9, busy * max(0.0, added))
    reaction = share / (1.0 - share) + 1.0 - idle_ms / pure_ms  # of the time per token to the load, both in relation
    num_come = max(sum(prefills), sum(decodes)) * sum(demand) / sum(decodes) * token_ms / 1e3
    return Lane(num_workers, token_ms, hypot(_SPREAD, min(1.0, reaction) / sqrt(max(1.0, num_come))), stretch)


def _beside(
    decodes: StepFeatures, count: int, num_prompts: int, keys: float, model: StepPredictor
) -> tuple[float, float]:
    """A step of decodes and ``count`` tokens of so many prompts, each reading ``keys``: its milliseconds, and the part of the tokens it takes."""
    num_tokens = min(num_prompts * count, _BUDGET - decodes.num_decodes)
    if count == _CHUNK:  # a shorter prompt is taken whole
        num_tokens = tokens_beside(decodes.num_decodes, num_tokens, count)
    prompts = StepFeatures(num_tokens, num_tokens * keys, num_prompts)
    return model.predict_ms(prompts + decodes), num_tokens / (num_prompts * count)


def _in_time(lane: Lane, sample: Sequence[Arrival], rates: Sequence[float], extra_ms: float) -> list[float]:
    """The share of each that begins in time, when prompts come at these rates and those that would be late turn away."""
    size = 1e3 * lane.num_workers / lane.stretch  # milliseconds of prompts that the lane takes in a second
    company = min(1.0, sum([r * a.prefill_ms for r, a in zip(rates, sample, strict=True)]) / size)
    own = [a.prefill_ms + company * (a.packed_ms - a.prefill_ms) for a in sample]  # they share steps when it is busy
    work = [r * ms for r, ms in zip(rates, own, strict=True)]
    residual_ms = 0.5 * lane.stretch * sum([w * ms for w, ms in zip(work, own, strict=True)]) / max(sum(work), 1e-6)
    shares: list[float] = []
    ahead = 0.0  # work of those with earlier deadlines, without those who turned away
    for goal, group in groupby(zip([a.ttft_goal_ms for a in sample], own, work, strict=True), itemgetter(0)):
        same = list(group)
        busy = (ahead + sum([w for _, _, w in same])) / size
        for _, own_ms, w in same:
            slack_ms = goal - own_ms * lane.stretch - extra_ms - 0.5 * lane.token_ms
            share = (
                1.0 - turned_away(busy, lane.num_workers, slack_ms / max(residual_ms, 1e-3)) if slack_ms > 0.0 else 0.0
            )
            ahead += w * share
            shares.append(share)
    return shares


def turned_away(busy: float, num_workers: int, patience: float) -> float:
    """Who meets a wait of more than ``patience`` residual services and does not join.

    ``busy``: load of a worker, above 1 if more comes than it can do.

    The chance that all workers are busy is Sakasegawa's (1977); for one worker and exponential services the result is exact.
    """
    if busy < 1e-6:
        return 0.0
    if abs(busy - 1.0) < 1e-3:
        busy = 1.001
    waits = busy ** (sqrt(2.0 * (num_workers + 1)) - 1.0)
    density = waits * (1.0 - busy) / (1.0 - waits)  # of short waits, beside a chance of 1 to find a worker free
    beyond = exp(max(-50.0, min(50.0, -num_workers * (1.0 - busy) * patience)))
    return density * beyond / (1.0 + density * (1.0 - beyond) / (1.0 - busy) + density * beyond)


def _value(sample: Sequence[Arrival], in_time: Sequence[float], homes: Sequence[Lane]) -> float:
    """Of the sample's shares that begin in time, decoding in each one's home."""
    kept = 0.0
    for a, share, home in zip(sample, in_time, homes, strict=True):
        slack = min(2.0, home.token_ms / a.tpot_goal_ms) + min(2.0, a.prefill_ms * home.stretch / a.ttft_goal_ms)
        kept += share * (
            chance(home.token_ms, a.tpot_goal_ms, home.spread * home.token_ms / a.tpot_goal_ms) - _SLACK_WEIGHT * slack
        )
    return kept / len(sample)
