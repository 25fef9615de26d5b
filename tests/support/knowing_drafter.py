"""A drafter that knows what the model will say and is wrong at places fixed by the position, so that every length of agreement occurs."""

from collections.abc import Mapping, Sequence

from nanopd.decoding import DraftContext


class KnowingDrafter:
    """``outputs``: by ``seq_id``, the whole output. Every ``wrong_every``-th position of a sequence is guessed wrong; 0: none is."""

    def __init__(self, outputs: Mapping[str, Sequence[int]], num_draft_tokens: int, wrong_every: int = 4) -> None:
        self._outputs = outputs
        self._num_draft_tokens = num_draft_tokens
        self._wrong_every = wrong_every

    def propose(self, contexts: Sequence[DraftContext]) -> Mapping[str, Sequence[int]]:
        return {context.seq_id: self._guess(context) for context in contexts}

    def _guess(self, context: DraftContext) -> list[int]:
        first = len(context.token_ids) - context.num_prompt_tokens
        known = [*self._outputs[context.seq_id], *[0] * self._num_draft_tokens]  # goes on past the end
        wrong = self._wrong_every
        return [
            known[index] + (wrong > 0 and index % wrong == 0) for index in range(first, first + self._num_draft_tokens)
        ]
