"""How good predicted distributions are: CRPS, and the probability integral transform for calibration."""

from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import NamedTuple

from nanopd.router.predictor.bins import EDGES
from nanopd.router.predictor.bucketed_mean import BucketedMean
from nanopd.router.predictor.distribution import LengthDistribution
from nanopd.router.predictor.predictor import LengthKey, LengthPredictor


def crps(distribution: LengthDistribution, length: int) -> float:
    """Continuous ranked probability score in tokens: the integral of (P(O <= x) - [length <= x])^2; the absolute error of a point forecast."""
    points = sorted(
        {0, length, distribution.age, distribution.cap, *(edge for edge in EDGES if edge < distribution.cap)}
    )
    total = 0.0
    for low, high in zip(points, points[1:], strict=False):
        at_low = distribution.survival(low) if low < distribution.cap else 0.0
        at_high = distribution.survival(high - 1e-9) if high <= distribution.cap else 0.0
        if low >= length:  # [length <= x]: the error is the survival
            first, second = at_low, at_high
        else:
            first, second = 1.0 - at_low, 1.0 - at_high
        total += (high - low) * (first * first + first * second + second * second) / 3.0  # of a straight line, squared
    return total


def pit(distribution: LengthDistribution, length: int, rng: Random) -> float:
    """P(O < length), plus a random share of P(O = length): uniform on [0, 1] if and only if the forecast is calibrated."""
    above, reached = distribution.survival(length), distribution.survival(length - 1)
    return 1.0 - reached + rng.random() * (reached - above)


class Observation(NamedTuple):
    """A request of a trace, in order of its end. ``chain``: of its prompt's hashes, see ``LengthPredictor.key``."""

    key: LengthKey
    length: int
    censored: bool = False
    now: float = 0.0
    chain: tuple[int, ...] = ()


class Scores(NamedTuple):
    """Means over a trace, tokens; ``coverage`` is the share of lengths inside the 90 % interval (None for point forecasts)."""

    mae: float
    crps: float
    coverage: float | None
    pits: tuple[float, ...] = ()


def score(
    predictor: LengthPredictor | BucketedMean, trace: Sequence[Observation], num_warm_up: int = 300, seed: int = 0
) -> Scores:
    """Predicts each request, then shows the predictor how it ended. The first ``num_warm_up`` are not scored."""
    rng, errors, ranked, pits = Random(seed), [], [], []
    for index, (key, length, censored, now, chain) in enumerate(trace):
        if chain and isinstance(predictor, LengthPredictor):
            key = predictor.key(key.num_prompt_tokens, key.max_tokens, key.tenant, chain)
        if index >= num_warm_up:
            if isinstance(predictor, BucketedMean):
                errors.append(abs(predictor.predict(key) - length))
            else:
                belief = predictor.distribution(key)
                errors.append(abs(belief.quantile(0.5) - length))
                ranked.append(crps(belief, length))
                pits.append(pit(belief, length, rng))
        predictor.observe(key, length, censored, now)
    coverage = sum(0.05 <= p <= 0.95 for p in pits) / len(pits) if pits else None
    return Scores(fmean(errors), fmean(ranked or errors), coverage, tuple(pits))
