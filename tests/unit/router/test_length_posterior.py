"""The conjugate posterior against its closed forms."""

import numpy as np
import pytest

from nanopd.router.predictor.bins import EDGES, NUM_BINS, bin_of
from nanopd.router.predictor.posterior import BASE, Posterior

FOREVER = (1e15, 1e15)  # nothing fades


def updated(prior_weight: float, observations: list[tuple[int, bool]]) -> np.ndarray:
    posterior = Posterior(prior_weight, FOREVER)
    for length, censored in observations:
        posterior.observe(length, censored, 0, 1.0)
    posterior.refresh(BASE, 1)
    return posterior.table.survival


def test_without_censoring_it_is_the_dirichlet_posterior() -> None:
    lengths = [3, 17, 17, 200, 900]
    counts = np.bincount([bin_of(length) for length in lengths], minlength=NUM_BINS)
    prior = BASE.survival[:-1] - BASE.survival[1:]
    expected = (5.0 * prior + counts) / (5.0 + len(lengths))
    got = updated(5.0, [(length, False) for length in lengths])
    assert np.allclose(got[:-1] - got[1:], expected, atol=1e-12)


def test_with_a_vanishing_prior_it_is_the_kaplan_meier_estimate() -> None:
    # 4 requests: ends at 10, cut at 40, ends at 100, ends at 300: S = 3/4, then (1 of 2 at risk) 3/8, then 0
    survival = updated(1e-9, [(10, False), (40, True), (100, False), (300, False)])
    after = {length: survival[EDGES.index(min(e for e in EDGES if e >= length))] for length in (10, 100, 300)}
    assert after[10] == pytest.approx(3 / 4, abs=1e-6)
    assert after[100] == pytest.approx(3 / 8, abs=1e-6)
    assert after[300] == pytest.approx(0.0, abs=1e-6)


def test_a_cut_request_moves_the_belief_up_only_beyond_the_cut() -> None:
    before, after = updated(2.0, []), updated(2.0, [(EDGES[40], True)] * 10)
    assert np.all(after[1:41] > before[1:41])
    hazards = [1.0 - s[41:-1] / s[40:-2] for s in (before, after)]
    assert np.allclose(*hazards)  # beyond the cut: what the prior says


def test_reports_of_a_running_request_add_up_to_one_observation() -> None:
    once, piecewise = Posterior(2.0, FOREVER), Posterior(2.0, FOREVER)
    once.observe(150, False, 0, 1.0)
    for since, age in ((0, 10), (10, 11), (11, 90)):
        piecewise.observe(age, True, since, 1.0)
    piecewise.observe(150, False, 90, 1.0)
    assert np.allclose(once.reached, piecewise.reached)
    assert np.allclose(once.outlived, piecewise.outlived)


def test_the_short_memory_takes_over_when_lengths_change() -> None:
    posterior = Posterior(10.0, (50.0, 5000.0))
    for i in range(800):
        posterior.observe(20 + i % 10 if i < 600 else 400 + i % 10, False, 0, 1.0)
        posterior.refresh(BASE, i)
    assert posterior.table.at(300) > 0.8  # the long memory alone: 0.25
