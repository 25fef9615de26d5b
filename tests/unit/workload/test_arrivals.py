"""Arrival processes: rate, burstiness, seeds."""

from itertools import islice
from statistics import mean, pstdev

import pytest

from nanopd.workload import ARRIVALS, arrival_times


def gaps(kind: str, **options: float) -> list[float]:
    times = [0.0, *islice(arrival_times(kind, 4.0, seed=3, **options), 8000)]
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("bursty", 3.0)])
def test_rate_and_burstiness(kind: str, cv: float) -> None:
    drawn = gaps(kind)
    assert min(drawn) >= 0.0
    assert mean(drawn) == pytest.approx(0.25, rel=0.1)
    assert pstdev(drawn) / mean(drawn) == pytest.approx(cv, rel=0.1)


def test_diurnal_swings_around_its_rate() -> None:
    times = list(islice(arrival_times("diurnal", 4.0, seed=1, period_s=100.0, depth=0.8), 8000))
    whole = [t for t in times if t < 1900.0]
    assert len(whole) / 1900.0 == pytest.approx(4.0, rel=0.05)
    high = sum(t % 100.0 < 50.0 for t in whole) / len(whole)  # the half with the sine's crest
    assert high == pytest.approx(0.5 + 0.8 / 3.14159, abs=0.03)


def test_static_comes_at_once() -> None:
    assert list(islice(arrival_times("static", 1.0), 3)) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ARRIVALS[1:])
def test_a_seed_is_a_trace(kind: str) -> None:
    first, again, other = (list(islice(arrival_times(kind, 2.0, seed=seed), 20)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="one of static, poisson, bursty, diurnal, got 'weekly'"):
        arrival_times("weekly", 1.0)
    with pytest.raises(ValueError, match="above 0 requests per second"):
        arrival_times("poisson", 0.0)
