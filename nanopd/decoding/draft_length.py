"""How long a guess should be: as long as each further token is likelier to hold than it is dear, if that makes up for verifying at all.

A guess may fail at once, since nothing here has been said before, or later, where the repetition ends: two chances, ``first`` for its first token
and ``later`` for any other if those before it hold. So token j adds ``first * later ** (j - 1)`` to the tokens of the step, and costs the price of a
row; the step costs the price of verifying. Prices are in tokens that the time would have given otherwise. Maximising tokens minus their price, at
the present rate of tokens to time, leads to the best rate there is (Dinkelbach, "On nonlinear fractional programming", 1967).
"""

from math import ceil, log
from typing import NamedTuple

from nanopd.decoding.guess_prices import Prices

_RIGHT, _WRONG = 1.5, 0.5  # the prior of both chances: a new sequence is worth a try
_FADE = 0.99  # of evidence, per token the sequence has grown since: half of it is gone after 69


class Chances(NamedTuple):
    """That a guessed token holds, if those before it do. Both in (0, 1)."""

    first: float
    later: float


class GuessRecord:
    """What became of a sequence's guesses: the two chances as means of Beta posteriors.

    Evidence fades as the sequence grows, for a text may begin to repeat itself, or cease to. So a sequence whose guesses did not pay is tried
    again now and then.
    """

    __slots__ = ("_first_right", "_first_wrong", "_later_right", "_later_wrong", "_length")

    def __init__(self) -> None:
        self._first_right = self._first_wrong = self._later_right = self._later_wrong = 0.0
        self._length = 0  # of the sequence, when it was last observed

    def chances(self, length: int) -> Chances:
        """For a sequence of ``length`` tokens."""
        fade = _FADE ** (length - self._length)
        return Chances(
            _mean(self._first_right * fade, self._first_wrong * fade),
            _mean(self._later_right * fade, self._later_wrong * fade),
        )

    def observe(self, num_accepted: int, num_draft_tokens: int, length: int) -> None:
        """Of a draft the first ``num_accepted`` tokens held. What came after the first wrong one tells nothing."""
        fade = _FADE ** (length - self._length)
        self._first_right = self._first_right * fade + (num_accepted > 0)
        self._first_wrong = self._first_wrong * fade + (num_accepted == 0)
        self._later_right = self._later_right * fade + max(num_accepted - 1, 0)
        self._later_wrong = self._later_wrong * fade + (0 < num_accepted < num_draft_tokens)
        self._length = length


def draft_length(chances: Chances, prices: Prices, num_sharing: int = 1) -> int:
    """How many tokens to guess for one of ``num_sharing`` sequences that pay for the step's verifying together; 0: not worth it."""
    first, later = chances
    if first <= prices.row:
        return 0
    length = ceil(log(prices.row / first) / log(later))  # the largest with first * later ** (length - 1) > row
    gain = first * (1.0 - later**length) / (1.0 - later) - length * prices.row
    return length if gain > prices.step / num_sharing else 0


def _mean(right: float, wrong: float) -> float:
    return (_RIGHT + right) / (_RIGHT + _WRONG + right + wrong)
