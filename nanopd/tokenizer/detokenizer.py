"""Token ids to text as they come, without ever showing a broken character.

The decoded window is ``ids[prefix:]``, of which ``emitted`` characters were handed out. It starts a few tokens back, because what a token
decodes to may depend on the one before it (a stripped leading space, a character spread over byte tokens)::

    ids    ... | prefix ......... read | new
    text       | already handed out ...| handed out unless it ends in an unfinished character
"""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"  # what an unfinished UTF-8 sequence decodes to


class IncrementalDetokenizer:
    """Turns a growing list of token ids into text pieces whose concatenation is the full decode."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._read = 0  # tokens of the window that were complete at the last hand-out
        self._emitted = 0  # characters of the window's text handed out

    def push(self, token_id: int) -> str:
        """The text this token completes; empty while a character is unfinished."""
        self._window.append(token_id)
        text = self._decode(self._window)
        complete = text.rstrip(_REPLACEMENT)
        piece = complete[self._emitted :]
        self._emitted = max(self._emitted, len(complete))
        if len(complete) == len(text):
            self._slide()
        return piece

    def flush(self) -> str:
        """What is left at the end: an unfinished character, shown as U+FFFD as a full decode shows it."""
        piece = self._decode(self._window)[self._emitted :]
        self._emitted += len(piece)
        return piece

    def _slide(self) -> None:
        """Forgets tokens that cannot matter any more; the last complete group stays as context."""
        del self._window[: self._read]
        self._read = len(self._window)
        self._emitted = len(self._decode(self._window))
