"""How good predicted distributions are: CRPS, and the probability integral transform for calibration."""

from random import Random

from nanopd.router.predictor.bins import EDGES
from nanopd.router.predictor.distribution import LengthDistribution


def crps(distribution: LengthDistribution, length: int) -> float:
    """Continuous ranked probability score in tokens: the integral of (P(O <= x) - [length <= x])^2; the absolute error of a point forecast."""
    points = sorted({0, length, distribution.age, distribution.cap, *(edge for edge in EDGES if edge < distribution.cap)})
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
