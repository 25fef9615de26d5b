"""One class's belief about lengths, under a prior that is its parent's belief.

A Dirichlet process prior on lengths, as hazards: of the requests that reached bin b, which share ended there. With ``ended[b]`` of
``reached[b]`` observed and a prior of weight w with probabilities p, the posterior mean of the hazard is

    h_b = (w p_b + ended[b]) / (w P(O in b or later) + reached[b])

Without censoring this is the usual Dirichlet posterior. With it, it is still the exact conjugate one (Susarla and Van Ryzin, 1976; the beta-Stacy
process of Walker and Muliere, 1997): a request that was cut or still runs counts in ``reached`` of the bins it has outlived and nowhere else.
"""

from collections.abc import Sequence

import numpy as np

from nanopd.router.predictor.bins import NUM_BINS, bin_of, num_survived
from nanopd.router.predictor.distribution import SurvivalTable

_TOLERANCE = 8  # observations a prior may be behind, once there are many


class Posterior:
    """Counts that fade: ``window`` observations ago weighs 1/e. ``prior_weight`` is the prior's worth in observations."""

    __slots__ = ("_keep", "_parent_version", "_prior_weight", "ended", "last", "num_observed", "probabilities", "reached", "table", "version")

    def __init__(self, prior_weight: float, window: float) -> None:
        self.ended = np.zeros(NUM_BINS)
        self.reached = np.zeros(NUM_BINS)
        self.probabilities = np.empty(NUM_BINS)  # of each bin, as of the last refresh
        self.table: SurvivalTable | None = None  # made when asked for
        self.version = 0  # rises with every observation
        self.num_observed = 0
        self.last = 0.0  # time of the last observation
        self._parent_version = -1
        self._prior_weight = prior_weight
        self._keep = 1.0 - 1.0 / window

    def observe(self, length: int, censored: bool, since: int, fade: float) -> None:
        """A request longer than ``since`` ended at ``length``, or is known to be longer than it. ``fade``: what the time gone by leaves of the past."""
        keep = self._keep * fade if not censored or since == 0 else fade
        if keep != 1.0:
            self.ended *= keep
            self.reached *= keep
        start = num_survived(since) if since else 0
        if censored:
            self.reached[start : num_survived(length)] += 1.0
        else:
            last = bin_of(length)
            self.reached[start : last + 1] += 1.0
            self.ended[last] += 1.0
        self.version += 1
        self.num_observed += 1

    def refresh(self, prior: np.ndarray, prior_version: int) -> None:
        """Recomputes the probabilities from the counts and the prior's probabilities."""
        weighted = self._prior_weight * prior
        tail = np.cumsum(weighted[::-1])[::-1]
        hazard = (weighted + self.ended) / (tail + self.reached)
        hazard[-1] = 1.0
        survival = np.cumprod(1.0 - hazard)
        self.probabilities[0] = hazard[0]
        np.multiply(hazard[1:], survival[:-1], out=self.probabilities[1:])
        self.table = None
        self._parent_version = prior_version

    def is_stale(self, prior_version: int) -> bool:
        """Whether enough observations have reached the prior (so also this class, its child) since the last refresh."""
        return self._parent_version < 0 or prior_version - self._parent_version >= min(_TOLERANCE, 1 + self.num_observed // 16)

    def survival_table(self) -> SurvivalTable:
        """P(O > x) at the edges."""
        if self.table is None:
            survival = np.ones(NUM_BINS + 1)
            np.subtract(1.0, np.cumsum(self.probabilities), out=survival[1:])
            self.table = SurvivalTable(np.maximum(survival, 0.0, out=survival))
        return self.table


def base_probabilities(edges: Sequence[int], median: float = 128.0, sigma: float = 1.5) -> np.ndarray:
    """The belief before any observation: log-normal, spread over two orders of magnitude."""
    z = (np.log(np.maximum(edges, 1e-9)) - np.log(median)) / sigma
    cdf = 1.0 / (1.0 + np.exp(-1.702 * z))  # the logistic curve, within 0.01 of the normal one
    cdf[0], cdf[-1] = 0.0, 1.0
    return np.diff(cdf)
