"""LengthDistribution against sums over single lengths."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanopd.router.predictor.bins import EDGES, LONGEST, NUM_BINS, bin_of, num_survived
from nanopd.router.predictor.distribution import LengthDistribution, SurvivalTable


def table_of(masses: dict[int, float]) -> SurvivalTable:
    """Bins with the given masses."""
    pmf = np.zeros(NUM_BINS)
    for b, mass in masses.items():
        pmf[b] = mass
    return SurvivalTable(np.concatenate([[1.0], np.maximum(1.0 - np.cumsum(pmf / pmf.sum()), 0.0)]))


def lengths_of(table: SurvivalTable, cap: int, age: int) -> dict[int, float]:
    """P(O = n | O > age) of every single length: within a bin each is as likely."""
    pmf: dict[int, float] = {}
    for b in range(NUM_BINS):
        mass = float(table.survival[b] - table.survival[b + 1])
        for length in range(EDGES[b] + 1, EDGES[b + 1] + 1) if mass > 0.0 else ():
            pmf[min(length, cap)] = pmf.get(min(length, cap), 0.0) + mass / (EDGES[b + 1] - EDGES[b]) * (length > age)
    total = sum(pmf.values())
    return {length: mass / total for length, mass in pmf.items()}


masses = st.dictionaries(st.integers(0, bin_of(600)), st.floats(0.01, 1.0), min_size=1, max_size=5)


@given(masses, st.integers(1, 700), st.integers(0, 300))
def test_agrees_with_sums_over_lengths(drawn: dict[int, float], cap: int, age: int) -> None:
    table = table_of(drawn)
    distribution = LengthDistribution(table, cap).conditional(age)
    if age >= cap or table.at(age) < 1e-6:
        assert distribution.mean <= max(cap, age + 1) + 1e-6
        return
    pmf = lengths_of(table, cap, age)
    assert distribution.mean == pytest.approx(sum(n * p for n, p in pmf.items()), rel=1e-6)
    for length in (1, age, age + 3, cap - 1, cap):
        if length >= 1:
            assert distribution.survival(length) == pytest.approx(
                sum(p for n, p in pmf.items() if n > length), abs=1e-6
            )


@given(masses, st.integers(1, 700), st.floats(0.01, 0.99))
def test_quantile_inverts_survival(drawn: dict[int, float], cap: int, q: float) -> None:
    distribution = LengthDistribution(table_of(drawn), cap)
    length = distribution.quantile(q)
    assert 0.0 <= length <= cap
    assert distribution.survival(length) <= 1.0 - q + 1e-6
    if length < cap:
        assert distribution.survival(length - 1e-3) >= 1.0 - q - 1e-3


def test_samples_follow_the_distribution() -> None:
    distribution = LengthDistribution(table_of({bin_of(20): 1.0, bin_of(200): 3.0}), 4096).conditional(5)
    rng = Random(0)
    samples = [distribution.sample(rng) for _ in range(4000)]
    assert min(samples) > 5
    assert sum(samples) / len(samples) == pytest.approx(distribution.mean, rel=0.03)
    assert sum(sample > 100 for sample in samples) / len(samples) == pytest.approx(0.75, abs=0.03)


@given(st.integers(1, LONGEST))
def test_bins_hold_their_lengths(length: int) -> None:
    b = bin_of(length)
    assert EDGES[b] < length <= EDGES[b + 1]
    assert num_survived(length) == sum(edge <= length for edge in EDGES[1:])  # wholly outlived
