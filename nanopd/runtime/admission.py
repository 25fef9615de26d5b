"""The check every request passes before a worker sees it, and the values left open, filled in."""

import secrets
from collections import deque
from dataclasses import replace

from nanopd.decoding import num_candidates
from nanopd.errors import InvalidRequestError, OverloadedError, PromptTooLongError
from nanopd.request import Request, Strategy

_MAX_RETRY_AFTER_S = 60.0


def resolve_request(request: Request, vocab_size: int, max_model_len: int, now: float) -> Request:
    """The request with seed, max_tokens and arrival time resolved.

    Raises PromptTooLongError if prompt and one token exceed ``max_model_len``, InvalidRequestError for what no worker could serve.
    """
    prompt, sampling = request.prompt_token_ids, request.sampling
    if not prompt:
        raise InvalidRequestError("prompt must have at least one token, got none", "prompt")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < vocab_size)
        raise InvalidRequestError(f"prompt token ids must be in [0, {vocab_size}), got {wrong}", "prompt")
    for token in (*sampling.logit_bias, *sampling.stop_token_ids):
        if not 0 <= token < vocab_size:
            field = "logit_bias" if token in sampling.logit_bias else "stop_token_ids"
            raise InvalidRequestError(f"{field} token ids must be in [0, {vocab_size}), got {token}", field)
    room = max_model_len - len(prompt)
    if room < 1:
        raise PromptTooLongError(f"prompt must have at most {max_model_len - 1} tokens, got {len(prompt)}", "prompt")
    if request.beam is not None:
        num_candidates(request.beam, request.stop_ids)
        if request.strategy is not Strategy.COLLOCATED:
            raise InvalidRequestError(
                f"strategy must be collocated for beam search: beams share the blocks of one worker, got {request.strategy}",
                "strategy",
            )
    max_tokens = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
    sampling = replace(
        sampling,
        max_tokens=max_tokens,
        min_tokens=min(sampling.min_tokens, max_tokens),
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
    )
    return replace(request, sampling=sampling, arrival_time=request.arrival_time or now)


class QueueBound:
    """Refuses what would only wait: at most ``limit`` accepted and unfinished requests."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._finished_at: deque[float] = deque(maxlen=64)

    def check(self, num_queued: int, now: float) -> None:
        """Raises OverloadedError with the time after which a place should be free."""
        if num_queued >= self.limit:
            retry_after_s = self._seconds_per_finish(now)
            sentence = f"the queue is full ({num_queued} requests); retry in {retry_after_s:.0f} s"
            raise OverloadedError(sentence, retry_after_s)

    def finished(self, now: float) -> None:
        """A request has ended."""
        self._finished_at.append(now)

    def _seconds_per_finish(self, now: float) -> float:
        """Mean time between recent ends: how long until a place is free. At least 1 s, the unit of Retry-After."""
        if not self._finished_at:
            return 1.0
        return min(max((now - self._finished_at[0]) / len(self._finished_at), 1.0), _MAX_RETRY_AFTER_S)
