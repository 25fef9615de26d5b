"""One class's belief about lengths, under a prior that is its parent's belief.

A Dirichlet process prior on lengths, seen as chances to go on. Of ``reached[b]`` observed requests that got into bin b, ``outlived[b]`` got out of it
alive; with a prior of weight w and survival function S0 the posterior mean of the survival function is the product over bins of

    (w S0(end of b) + outlived[b]) / (w S0(start of b) + reached[b])

Without censoring this is the usual Dirichlet posterior. With it, it is still the exact conjugate one (Susarla and Van Ryzin, 1976; the beta-Stacy
process of Walker and Muliere, 1997): a request that was cut or still runs counts in the bins it has outlived and nowhere else.
"""

from math import exp, log

import numpy as np

from nanopd.router.predictor.bins import EDGES, NUM_BINS, bin_of, num_survived
from nanopd.router.predictor.distribution import SurvivalTable

_EVIDENCE_KEPT = 0.97  # per observation
_TOLERANCE = 8  # observations a prior may be behind, once there are many


class Posterior:
    """Counts that fade, at two speeds: a short memory follows drift, a long one is precise. They are mixed by how well each has lately predicted
    (Bayesian model averaging, the evidence fading too). Rows of the arrays: short, long."""

    def __init__(self, prior_weight: float, windows: tuple[float, float]) -> None:
        """``windows``: observations after which one weighs 1/e. ``prior_weight``: the prior's worth in observations."""
        self.reached = np.zeros((2, NUM_BINS))
        self.outlived = np.zeros((2, NUM_BINS))
        self.table = BASE  # as of the last refresh
        self.version = 0  # rises with every observation
        self.num_observed = 0
        self.last = 0.0  # time of the last observation
        self._survival = np.array([BASE.survival, BASE.survival])  # of each memory, as of the last refresh
        self._evidence = 0.0  # log odds of the short memory
        self._prior_version = -1
        self._prior_weight = prior_weight
        self._keep = np.array([[1.0 - 1.0 / window] for window in windows])

    def observe(self, length: int, censored: bool, since: int, fade: float) -> None:
        """A request longer than ``since`` ended at ``length``, or is known to be longer than it. ``fade``: what time leaves of the past."""
        start = num_survived(since) if since else 0
        end = num_survived(length) if censored else bin_of(length)
        self._weigh(start, end, censored)
        if not (since and censored):  # a running request fades the past once
            self.reached *= self._keep * fade
            self.outlived *= self._keep * fade
        self.reached[:, start:end] += 1.0
        self.outlived[:, start:end] += 1.0
        if not censored:
            self.reached[:, end] += 1.0
        self.version += 1
        self.num_observed += 1

    def _weigh(self, start: int, end: int, censored: bool) -> None:
        """Moves the odds by how probable each memory held what has come."""
        value = self._survival.item
        odds = 1.0
        for row in (0, 1):
            probable = value(row, end) - (0.0 if censored else value(row, end + 1))
            probable = max(probable, 1e-9) / max(value(row, start), 1e-9)
            odds = odds * probable if row == 0 else odds / probable
        self._evidence = _EVIDENCE_KEPT * self._evidence + min(3.0, max(-3.0, log(odds)))

    def is_stale(self, prior_version: int) -> bool:
        """Whether enough observations have reached the prior (so also this class, its child) since the last refresh."""
        return self._prior_version < 0 or prior_version - self._prior_version >= min(
            _TOLERANCE, 1 + self.num_observed // 16
        )

    def refresh(self, prior: SurvivalTable, prior_version: int) -> None:
        """Recomputes ``table`` from the counts and the prior."""
        weighted = self._prior_weight * prior.survival
        np.cumprod((weighted[1:] + self.outlived) / (weighted[:-1] + self.reached), axis=1, out=self._survival[:, 1:])
        short = 1.0 / (1.0 + exp(-self._evidence))
        self.table = SurvivalTable(short * self._survival[0] + (1.0 - short) * self._survival[1])
        self._prior_version = prior_version


def log_normal_table(median: float, sigma: float) -> SurvivalTable:
    """P(O > x) of a log-normal length (by the logistic curve, within 0.01 of the normal one)."""
    edges = np.array(EDGES, dtype=np.float64)
    edges[0] = 1e-9
    z = (np.log(edges) - np.log(median)) / sigma
    survival = 1.0 / (1.0 + np.exp(1.702 * z))
    survival[0], survival[-1] = 1.0, 0.0
    return SurvivalTable(survival)


BASE = log_normal_table(128.0, 1.5)  # the belief before any observation, spread over two orders of magnitude
