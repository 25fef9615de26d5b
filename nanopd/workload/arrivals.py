"""When requests arrive: endless streams of seconds, seeded."""

from collections.abc import Iterator
from math import pi, sin
from random import Random

ARRIVALS = ("static", "poisson", "bursty", "diurnal")


def arrival_times(
    kind: str,
    rate: float,
    seed: int = 0,
    *,
    cv: float = 3.0,
    period_s: float = 600.0,
    depth: float = 0.8,
) -> Iterator[float]:
    """Arrivals of a kind of ``ARRIVALS`` at ``rate`` requests per second on average (static: all at once).

    ``cv``: coefficient of variation of bursty gaps. ``period_s``, ``depth``: of the diurnal wave. Raises ValueError.
    """
    if kind not in ARRIVALS:
        raise ValueError(f"arrivals must be one of {', '.join(ARRIVALS)}, got {kind!r}")
    if kind != "static" and rate <= 0.0:
        raise ValueError(f"rate must be above 0 requests per second, got {rate}")
    rng = Random(f"arrivals/{seed}")
    match kind:
        case "static":
            return static()
        case "poisson":
            return poisson(rate, rng)
        case "bursty":
            return gamma(rate, cv, rng)
        case _:
            return diurnal(rate, period_s, depth, rng)


def static() -> Iterator[float]:
    """All at once; the load generator bounds how many run."""
    while True:
        yield 0.0


def poisson(rate: float, rng: Random) -> Iterator[float]:
    """Independent arrivals."""
    now = 0.0
    while True:
        now += rng.expovariate(rate)
        yield now


def gamma(rate: float, cv: float, rng: Random) -> Iterator[float]:
    """Gamma-distributed gaps; ``cv`` above 1 comes in bursts, 1 is Poisson (as BurstGPT and vLLM's benchmark have it)."""
    shape = 1.0 / cv**2
    now = 0.0
    while True:
        now += rng.gammavariate(shape, 1.0 / (rate * shape))
        yield now


def diurnal(rate: float, period_s: float, depth: float, rng: Random) -> Iterator[float]:
    """A Poisson process whose rate swings by ``depth`` (0 to 1) around ``rate`` once a ``period_s``, by thinning (Lewis and Shedler, 1979)."""
    if not 0.0 <= depth <= 1.0:
        raise ValueError(f"depth must be in [0, 1], got {depth}")
    highest, now = rate * (1.0 + depth), 0.0
    while True:
        now += rng.expovariate(highest)
        if rng.random() * highest <= rate * (1.0 + depth * sin(2.0 * pi * now / period_s)):
            yield now
