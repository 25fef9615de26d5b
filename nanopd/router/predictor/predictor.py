"""The online predictor of output lengths: posteriors of classes, each with its parent's as the prior.

    everyone  ->  tenant and max_tokens  ->  ... and prompt length

A class that has been seen often speaks for itself; a new one says what its parent does. Lengths are natural ones: a request stopped by max_tokens is
a censored observation, and a prediction is cut at the request's own max_tokens.
"""

from typing import NamedTuple

from nanopd.router.predictor.bins import LONGEST
from nanopd.router.predictor.distribution import LengthDistribution
from nanopd.router.predictor.posterior import BASE, Posterior

_MAX_CLASSES = 4096  # then the one observed longest ago goes


class LengthKey(NamedTuple):
    """What is known of a request beforehand."""

    num_prompt_tokens: int
    max_tokens: int
    tenant: str = ""

    @property
    def group(self) -> tuple[str, int]:
        """Its parent class."""
        return self.tenant, (self.max_tokens - 1).bit_length()

    @property
    def label(self) -> tuple[str, int, int]:
        """Its class: prompt lengths by factors of four."""
        return self.tenant, (self.max_tokens - 1).bit_length(), self.num_prompt_tokens.bit_length() // 2


class LengthPredictor:
    """Learns from every request that ends (and, if told, from those that still run). Times are seconds on one clock."""

    def __init__(
        self, windows: tuple[float, float] = (100.0, 2000.0), half_life_s: float = 3600.0, prior_weight: float = 20.0
    ) -> None:
        """``windows``: observations that a class's short and long memory hold; ``half_life_s``: after which an old one counts half;
        ``prior_weight``: what a class's prior is worth, in observations. Raises ValueError."""
        if min(windows) <= 1.0 or half_life_s <= 0.0 or prior_weight <= 0.0:
            raise ValueError(
                f"windows must be above 1, half_life_s and prior_weight above 0, got {windows}, {half_life_s}, {prior_weight}"
            )
        self._windows, self._half_life_s, self._prior_weight = windows, half_life_s, prior_weight
        self._everyone = Posterior(prior_weight, windows)
        self._groups: dict[tuple[str, int], Posterior] = {}
        self._classes: dict[tuple[str, int, int], Posterior] = {}

    def observe(self, key: LengthKey, length: int, censored: bool = False, now: float = 0.0, since: int = 0) -> None:
        """A request of the class ended after ``length`` tokens, or (``censored``) has got that far: it was aborted, cut by max_tokens, or runs.

        A running request may be reported again and again: ``since`` is the length up to which it has been reported before.
        """
        if length < 1 or since < 0 or since > length:
            raise ValueError(f"length must be at least 1 and since in [0, length], got {length} and {since}")
        for posterior in (self._everyone, *self._chain(key)):
            posterior.observe(min(length, LONGEST), censored, since, self._fade(posterior, now))

    def distribution(self, key: LengthKey) -> LengthDistribution:
        """The belief about a request that has not begun; ``.conditional(age)`` for one that runs."""
        if self._everyone.is_stale(self._everyone.version):
            self._everyone.refresh(BASE, self._everyone.version)
        group = self._groups.get(key.group)
        if group is None:
            return LengthDistribution(self._everyone.table, key.max_tokens)
        if group.is_stale(self._everyone.version):
            group.refresh(self._everyone.table, self._everyone.version)
        own = self._classes.get(key.label)
        if own is None:
            return LengthDistribution(group.table, key.max_tokens)
        if own.is_stale(group.version):
            own.refresh(group.table, group.version)
        return LengthDistribution(own.table, key.max_tokens)

    def num_observed(self, key: LengthKey) -> int:
        """Observations of the request's own class so far."""
        own = self._classes.get(key.label)
        return own.num_observed if own else 0

    def _chain(self, key: LengthKey) -> tuple[Posterior, Posterior]:
        return self._at(self._groups, key.group), self._at(self._classes, key.label)

    def _at(self, table: dict, label: tuple) -> Posterior:
        posterior = table.pop(label, None)
        if posterior is None:
            posterior = Posterior(self._prior_weight, self._windows)
            if len(table) >= _MAX_CLASSES:
                del table[next(iter(table))]
        table[label] = posterior  # the most recent last
        return posterior

    def _fade(self, posterior: Posterior, now: float) -> float:
        elapsed, posterior.last = now - posterior.last, max(now, posterior.last)
        return 0.5 ** (elapsed / self._half_life_s) if elapsed > 0.0 and posterior.num_observed else 1.0
