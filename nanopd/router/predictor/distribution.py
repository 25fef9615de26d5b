"""The distribution of one request's output length."""

from bisect import bisect_left
from random import Random

import numpy as np

from nanopd.router.predictor.bins import EDGES, LONGEST, NUM_BINS

_WIDTHS = np.diff(np.array(EDGES, dtype=np.float64))
_HALF_GAPS = 0.5 * (_WIDTHS - 1.0)


class SurvivalTable:
    """P(O > x) at the bins' edges, linear between them, and its sums; shared by all distributions of a class."""

    __slots__ = ("_sums", "survival")

    def __init__(self, survival: np.ndarray) -> None:
        self.survival = survival  # float64, one for each edge: 1 at 0, 0 at LONGEST
        self._sums: np.ndarray | None = None

    @property
    def sums(self) -> np.ndarray:
        """Sum of P(O > x) over x = EDGES[0] ... EDGES[b + 1] - 1, for each bin b."""
        if self._sums is None:
            high = self.survival[:-1]
            self._sums = np.cumsum(_WIDTHS * high - _HALF_GAPS * (high - self.survival[1:]))
        return self._sums

    def at(self, x: float) -> float:
        """P(O > x)."""
        if x <= 0:
            return 1.0
        if x >= LONGEST:
            return 0.0
        b = bisect_left(EDGES, x) - 1
        low, high = EDGES[b], EDGES[b + 1]
        before, after = self.survival.item(b), self.survival.item(b + 1)
        return before + (x - low) / (high - low) * (after - before)

    def sum_to(self, x: int) -> float:
        """Sum of P(O > y) over y = 0 ... x - 1."""
        if x <= 0:
            return 0.0
        x = min(x, LONGEST)
        b = bisect_left(EDGES, x) - 1
        count, width = x - EDGES[b], EDGES[b + 1] - EDGES[b]
        before, after = self.survival.item(b), self.survival.item(b + 1)
        done = self.sums.item(b - 1) if b else 0.0
        return done + count * before - 0.5 * count * (count - 1) * (before - after) / width

    def inverse(self, survival: float) -> float:
        """The least x with P(O > x) <= ``survival``."""
        if survival >= 1.0:
            return 0.0
        value = self.survival.item
        low, high = 1, NUM_BINS
        while low < high:  # the first edge at which the survival has fallen that far
            middle = (low + high) // 2
            if value(middle) <= survival:
                high = middle
            else:
                low = middle + 1
        before, after = value(low - 1), value(low)
        share = (before - survival) / (before - after) if before > after else 1.0
        return EDGES[low - 1] + share * (EDGES[low] - EDGES[low - 1])


class LengthDistribution:
    """Of the total output length O, given that it exceeds ``age`` and ends at ``cap`` (max_tokens) at the latest. All lengths in tokens."""

    __slots__ = ("_alive", "_table", "age", "cap")

    def __init__(self, table: SurvivalTable, cap: int, age: int = 0) -> None:
        self._table = table
        self.cap = min(cap, LONGEST)
        self.age = min(age, self.cap)
        self._alive = max(table.at(self.age), 1e-12)

    @classmethod
    def certain(cls, length: int) -> "LengthDistribution":
        """Of a length that is known, or taken for known."""
        return cls(SurvivalTable((np.array(EDGES) < length).astype(np.float64)), length)

    def survival(self, length: float) -> float:
        """P(O > length | O > age)."""
        if length < self.age:
            return 1.0
        return min(1.0, self._table.at(length) / self._alive) if length < self.cap else 0.0

    def quantile(self, q: float) -> float:
        """The least length that O does not exceed with probability ``q``, as a real number."""
        if self.age >= self.cap:
            return float(self.cap)
        return min(max(self._table.inverse((1.0 - q) * self._alive), float(self.age)), float(self.cap))

    @property
    def mean(self) -> float:
        """E[O | O > age]."""
        if self.age >= self.cap:
            return float(self.cap)
        return min(
            self.age + (self._table.sum_to(self.cap) - self._table.sum_to(self.age)) / self._alive, float(self.cap)
        )

    @property
    def mean_remaining(self) -> float:
        """Tokens still to come, on average."""
        return self.mean - self.age

    def conditional(self, age: int) -> "LengthDistribution":
        """Once ``age`` tokens are out and the request goes on."""
        return LengthDistribution(self._table, self.cap, age)

    def sample(self, rng: Random) -> int:
        """A length, at least age + 1 (or the cap)."""
        length = -int(-self.quantile(rng.random()) // 1)
        return min(max(length, self.age + 1), self.cap)
