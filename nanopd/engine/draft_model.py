"""A smaller model that drafts: an engine of its own, asked for a few tokens before each step of the large one.

It keeps no state per sequence. Each time it is given the whole sequence, finds all but the newest of it in its own prefix cache, and decodes
from there; guesses that turn out wrong are cache entries nobody asks for again. It draws as the large model would, with the same uniform
number in the same place: where both agree on the distribution they agree on the token, at any temperature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nanopd.decoding import DraftContext
from nanopd.engine.engine import Engine
from nanopd.request import Request


class DraftModel:
    """Implements ``decoding.Drafter``. ``engine`` is this one's alone; its prefix cache should be on."""

    def __init__(self, engine: Engine, num_draft_tokens: int) -> None:
        if num_draft_tokens < 1:
            raise ValueError(f"num_draft_tokens must be at least 1, got {num_draft_tokens}")
        self._engine = engine
        self._num_draft_tokens = num_draft_tokens
        self._num_rounds = 0  # makes sequence ids that are used once

    def propose(self, contexts: Sequence[DraftContext]) -> Mapping[str, Sequence[int]]:
        """Runs the draft model to the end of every guess; sequences decode together. What does not fit it goes without."""
        self._num_rounds += 1
        drafts: dict[str, list[int]] = {}
        for context in contexts:
            seq_id = f"{context.seq_id}/{self._num_rounds}"
            outputs = context.token_ids[context.num_prompt_tokens :]
            count = min(self._num_draft_tokens, context.max_draft_tokens)
            self._engine.run_local(seq_id, _draft_request(context.request, len(outputs) + count), outputs)
        while self._engine.has_work:
            for output in self._engine.step().outputs:
                drafts.setdefault(output.seq_id.rpartition("/")[0], []).extend(output.token_ids)
        return drafts


def _draft_request(request: Request, max_tokens: int) -> Request:
    """The same request, for ``max_tokens`` of output."""
    sampling = request.sampling
    return replace(
        request,
        sampling=replace(
            sampling,
            max_tokens=max_tokens,
            min_tokens=min(sampling.min_tokens, max_tokens),
            logprobs=None,
            prompt_logprobs=None,
        ),
    )
