"""From one request's token stream to the text its caller sees: detokenisation, stop strings, the stop token left out of the text."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanopd.request import Request, TokenLogprobs
from nanopd.tokenizer.stop_strings import StopMatcher
from nanopd.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """What new tokens mean for the caller. ``text`` may lag behind the tokens: an unfinished character or stop string is withheld."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]  # one per token, or empty


class OutputProcessor:
    """The state of one output. Tokens after a stop string are dropped; the owner aborts the request (reason STOP) once ``is_stopped``."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        *,
        skip_special_tokens: bool = True,
        include_stop_str_in_output: bool = False,
    ) -> None:
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens)
        self._matcher = StopMatcher(request.sampling.stop, include_stop_str_in_output)
        self._stop_ids = frozenset() if include_stop_str_in_output else request.stop_ids
        self._min_tokens = request.sampling.min_tokens
        self._num_tokens = 0

    @property
    def is_stopped(self) -> bool:
        return self._matcher.matched is not None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text."""
        return self._matcher.matched

    def push(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None] = ()) -> OutputDelta:
        """Takes the next tokens of the output, in order."""
        text, num_taken = "", 0
        for token_id in token_ids:
            if self.is_stopped:
                break
            num_taken += 1
            self._num_tokens += 1
            if token_id not in self._stop_ids or self._num_tokens <= self._min_tokens:
                text += self._show(self._detokenizer.push(token_id))
        kept = tuple(entry for entry in logprobs[:num_taken] if entry is not None)
        return OutputDelta(text, tuple(token_ids[:num_taken]), kept)

    def finish(self) -> str:
        """The withheld rest, once no token follows."""
        if self.is_stopped:
            return ""
        return self._matcher.push(self._detokenizer.flush()) + self._matcher.flush()

    def _show(self, text: str) -> str:
        """Stop strings count only after ``min_tokens``, as stop tokens do."""
        return text if self._num_tokens <= self._min_tokens else self._matcher.push(text)
