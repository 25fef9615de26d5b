"""Log-probabilities as the two OpenAI APIs write them."""

from collections.abc import Sequence
from typing import Any

from nanopd.request import TokenLogprobs
from nanopd.tokenizer import Tokenizer


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """Chat completions: one object per token."""

    def described(token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": tokenizer.token_text(token_id),
            "logprob": logprob,
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = [
        {
            **described(entry.token_id, entry.logprob),
            "top_logprobs": [described(token_id, logprob) for token_id, logprob in entry.top],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """Completions: parallel lists. ``text_offset`` goes on through the pieces of a stream, so one object serves one choice."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0

    def first_token(self, token_id: int) -> dict[str, list[Any]]:
        """The echoed prompt's first token: nothing precedes it, so it has no probability."""
        return self._lists([token_id], [None], [None])

    def tokens(self, entries: Sequence[TokenLogprobs]) -> dict[str, list[Any]]:
        """``top_logprobs`` holds the chosen token too, also when it is not among the most probable."""
        text = self._tokenizer.token_text
        top = [
            {text(token_id): logprob for token_id, logprob in (*entry.top, (entry.token_id, entry.logprob))}
            for entry in entries
        ]
        return self._lists([entry.token_id for entry in entries], [entry.logprob for entry in entries], top)

    def _lists(
        self, token_ids: Sequence[int], logprobs: Sequence[float | None], top: Sequence[Any]
    ) -> dict[str, list[Any]]:
        tokens = [self._tokenizer.token_text(token_id) for token_id in token_ids]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {"tokens": tokens, "token_logprobs": list(logprobs), "top_logprobs": list(top), "text_offset": offsets}


def joined(*parts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Parallel lists, one after the other."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}
