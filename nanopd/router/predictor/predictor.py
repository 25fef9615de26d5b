"""The online predictor of output lengths: posteriors of classes, each with its parent's as the prior.

    everyone  ->  tenant and max_tokens  ->  ... and the conversation's last answer  ->  ... and prompt length

The level of the last answer is there for prompts that go on from one (``conversations``); others skip it.

A class that has been seen often speaks for itself; a new one says what its parent does. Lengths are natural ones: a request stopped by max_tokens is
a censored observation, and a prediction is cut at the request's own max_tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nanopd.router.predictor.bins import LONGEST
from nanopd.router.predictor.conversations import Conversations
from nanopd.router.predictor.distribution import LengthDistribution
from nanopd.router.predictor.posterior import BASE, Posterior

_MAX_CLASSES = 4096  # then the one observed longest ago goes


Label = tuple[str | int, ...]


class LengthKey(NamedTuple):
    """What is known of a request beforehand. ``LengthPredictor.key`` makes one."""

    num_prompt_tokens: int
    max_tokens: int
    tenant: str = ""
    last_answer: int = 0  # tokens of the answer that the prompt goes on from; 0: none that is known
    prompt: int | None = None  # names the prompt for those that go on from it

    @property
    def labels(self) -> tuple[Label, ...]:
        """Of its classes, the widest first: prompt lengths by factors of four, answers by factors of two."""
        group: Label = (self.tenant, (self.max_tokens - 1).bit_length())
        last, prompt = self.last_answer.bit_length(), self.num_prompt_tokens.bit_length() // 2
        own = (*group, last, prompt)
        return (group, (*group, last), own) if last else (group, own)


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
        self._classes: dict[Label, Posterior] = {}
        self._conversations = Conversations()

    def key(self, num_prompt_tokens: int, max_tokens: int, tenant: str = "", chain: Sequence[int] = ()) -> LengthKey:
        """Of a request. ``chain``: a hash of its prompt's first so many tokens, one of twice as many, and so on; one for each full piece."""
        last_answer = self._conversations.last_answer(chain)
        return LengthKey(num_prompt_tokens, max_tokens, tenant, last_answer, chain[-1] if chain else None)

    def observe(self, key: LengthKey, length: int, censored: bool = False, now: float = 0.0, since: int = 0) -> None:
        """A request of the class ended after ``length`` tokens, or (``censored``) has got that far: it was aborted, cut by max_tokens, or runs.

        A running request may be reported again and again: ``since`` is the length up to which it has been reported before.
        """
        if length < 1 or since < 0 or since > length:
            raise ValueError(f"length must be at least 1 and since in [0, length], got {length} and {since}")
        for posterior in (self._everyone, *map(self._at, key.labels)):
            posterior.observe(min(length, LONGEST), censored, since, self._fade(posterior, now))
        if key.prompt is not None:
            self._conversations.note(key.prompt, length)

    def distribution(self, key: LengthKey) -> LengthDistribution:
        """The belief about a request that has not begun; ``.conditional(age)`` for one that runs."""
        belief = self._everyone
        if belief.is_stale(belief.version):
            belief.refresh(BASE, belief.version)
        for label in key.labels:  # each has its parent's belief as the prior; an unknown one has no known children
            own = self._classes.get(label)
            if own is None:
                break
            if own.is_stale(belief.version):
                own.refresh(belief.table, belief.version)
            belief = own
        return LengthDistribution(belief.table, key.max_tokens)

    def num_observed(self, key: LengthKey) -> int:
        """Observations of the request's own class so far."""
        own = self._classes.get(key.labels[-1])
        return own.num_observed if own else 0

    def _at(self, label: Label) -> Posterior:
        posterior = self._classes.pop(label, None)
        if posterior is None:
            posterior = Posterior(self._prior_weight, self._windows)
            if len(self._classes) >= _MAX_CLASSES:
                del self._classes[next(iter(self._classes))]
        self._classes[label] = posterior  # the most recent last
        return posterior

    def _fade(self, posterior: Posterior, now: float) -> float:
        elapsed, posterior.last = now - posterior.last, max(now, posterior.last)
        return 0.5 ** (elapsed / self._half_life_s) if elapsed > 0.0 and posterior.num_observed else 1.0
