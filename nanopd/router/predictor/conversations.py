"""What each conversation's last answer was: it is found again by the prompt that goes on from it.

A chat's next prompt begins with the whole prompt before it. Prompts are seen as chains of hashes, one for every so many tokens, each of those tokens
and all before; a prompt is known by the end of its chain. An end from which many prompts go on is a common beginning (a system prompt), and says
nothing about any one of them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_FOLLOWERS = 8  # a turn that is regenerated or edited goes on from the same end, a few times
_MAX_PROMPTS = 65_536  # then the one noted longest ago goes


@dataclass(slots=True)
class _Answer:
    length: int
    num_followers: int = 0


class Conversations:
    """Answers by the end of their prompt's chain."""

    def __init__(self) -> None:
        self._answers: OrderedDict[int, _Answer] = OrderedDict()

    def last_answer(self, chain: Sequence[int]) -> int:
        """Tokens of the answer to the longest prompt that ``chain`` goes on from; 0: there is none."""
        for end in reversed(chain):
            if (answer := self._answers.get(end)) is not None:
                answer.num_followers += 1
                return answer.length if answer.num_followers <= _MAX_FOLLOWERS else 0
        return 0

    def note(self, end: int, length: int) -> None:
        """The prompt whose chain ends with ``end`` has been answered with ``length`` tokens, by now."""
        answer = self._answers.pop(end, None) or _Answer(length)
        answer.length = length
        self._answers[end] = answer
        if len(self._answers) > _MAX_PROMPTS:
            self._answers.popitem(last=False)
