"""What guessing costs, learnt from the steps themselves."""

from dataclasses import dataclass
from typing import NamedTuple

_RATE = 0.05  # of the running means: twenty steps
_STIFFNESS = 0.1  # rows squared: how much the number of rows must vary before the start value is left
_PLAIN_EVERY = 32  # steps, at least: else nobody would know what a step without guesses takes
_OUTLIER = 4.0  # times the mean: no step counts as longer


class Prices(NamedTuple):
    """In tokens: time, times the tokens that it would have given otherwise."""

    row: float  # of one more row in a step, in (0, 1)
    step: float  # of verifying anything in a step, where others run another kernel, or a CUDA graph


START = Prices(0.1, 0.1)  # until steps of both kinds have been seen


class GuessPrices:
    """Step time as two parallel lines over the rows of a step, one for steps that verify and one for those that do not, with fading memory.

    The lines' common slope is the price of a row, the distance between them that of verifying. While steps of a kind hardly differ in
    their rows, the slope leans towards where it started.
    """

    def __init__(self) -> None:
        self._plain, self._verifying, self._all = _Moments(), _Moments(), _Moments()
        self._tokens = 0.0  # mean of a step
        self._num_since_plain = 0

    def observe(self, num_rows: int, num_tokens: int, seconds: float, verified: bool) -> None:
        """A step without prompts: the rows it fed, the tokens that came of them, and how long it took, guessing included."""
        if seconds <= 0.0:
            return
        self._num_since_plain = self._num_since_plain + 1 if verified else 0
        kind = self._verifying if verified else self._plain
        if kind.count:
            seconds = min(seconds, _OUTLIER * kind.seconds)
        kind.add(num_rows, seconds)
        self._tokens += self._all.add(num_rows, seconds) * (num_tokens - self._tokens)

    @property
    def wants_plain_step(self) -> bool:
        """Whether the next step should do without guesses, for comparison."""
        return self._num_since_plain >= _PLAIN_EVERY

    def now(self) -> Prices:
        """The prices at the present rate of tokens to time."""
        plain, verifying = self._plain, self._verifying
        if not verifying.count:
            return START
        rate = self._tokens / self._all.seconds
        slope = plain.covariance + verifying.covariance + _STIFFNESS * START.row / rate
        slope /= plain.variance + verifying.variance + _STIFFNESS
        row = min(max(slope * rate, 0.01), 0.99)
        if not plain.count:
            return Prices(row, START.step)
        distance = verifying.seconds - plain.seconds - row / rate * (verifying.rows - plain.rows)
        return Prices(row, max(distance * rate, 0.0))


@dataclass(slots=True)
class _Moments:
    """Running means of rows and seconds, their variance and covariance."""

    count: int = 0
    rows: float = 0.0
    seconds: float = 0.0
    variance: float = 0.0  # of rows
    covariance: float = 0.0

    def add(self, rows: int, seconds: float) -> float:
        """The weight that the newcomer got."""
        self.count += 1
        weight = max(_RATE, 1.0 / self.count)
        off_rows, off_seconds = rows - self.rows, seconds - self.seconds
        self.rows += weight * off_rows
        self.seconds += weight * off_seconds
        self.variance = (1.0 - weight) * (self.variance + weight * off_rows * off_rows)
        self.covariance = (1.0 - weight) * (self.covariance + weight * off_rows * off_seconds)
        return weight
