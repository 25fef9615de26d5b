"""Stop strings: found in a stream of text pieces, whatever pieces they are spread over."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on, withholding a tail that may be the start of a stop string."""

    def __init__(self, stop: Sequence[str], include_in_output: bool = False) -> None:
        self._stop = tuple(stop)
        self._include = include_in_output
        self._held = ""
        self.matched: str | None = None  # the stop string that was found; nothing is passed on after it

    def push(self, text: str) -> str:
        """The text that may be shown now. Once ``matched`` is set, what follows the match is dropped."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = [(index + len(stop), index, stop) for stop in self._stop if (index := text.find(stop)) >= 0]
        if found:  # the match that ends first (then the longest): the same one whatever the pieces were
            _, index, self.matched = min(found)
            self._held = ""
            return text[: index + len(self.matched)] if self._include else text[:index]
        num_held = self._possible_start(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """The withheld tail: the text ended, so it is no stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
