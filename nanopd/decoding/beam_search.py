"""Beam search: the most probable continuations, found breadth first with ``width`` beams. Pure: knows tokens and log-probabilities only.

Each round every beam is continued by its most probable tokens, and all candidates are ranked by their summed log-probability. Going down the
ranking, a candidate that ends (stop token, or ``max_tokens``) becomes a hypothesis if it is among the first ``width``; the first ``width`` that do
not end are the beams of the next round. A hypothesis' score is ``logprob / num_tokens ** length_penalty``; the best ``width`` are kept.

The search is over when no beam can go on, or, with ``width`` hypotheses in hand, by the rule ``early_stopping`` names:

- ``"first"``: at once;
- ``"heuristic"``: when the best beam, scored at its present length, is no better than the worst of them;
- ``"never"``: when not even at ``max_tokens``, without losing any more probability, would it be better. With ``length_penalty`` 0 or less this
  misses nothing that the beams lead to.

These are the rules of ``transformers`` (``early_stopping`` True, False, "never"), which the tests hold it to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanopd.errors import InvalidRequestError
from nanopd.request import MAX_LOGPROBS, BeamParams, FinishReason, Hypothesis, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Beam:
    """An unfinished continuation."""

    token_ids: tuple[int, ...]  # output only
    logprob: float  # of all of them
    parent: int  # index of the beam it continues, in the round before


def num_candidates(params: BeamParams, stop_ids: frozenset[int]) -> int:
    """Continuations to be ranked for each beam, so that ``width`` of them do not end. Raises InvalidRequestError if they are too many."""
    count = params.width + len(stop_ids)
    if count > MAX_LOGPROBS:
        raise InvalidRequestError(
            f"width and the number of stop tokens must be at most {MAX_LOGPROBS} together, got {params.width} and {len(stop_ids)}",
            "width",
        )
    return count


class BeamSearch:
    """One search. ``beams`` are continued one token at a time by ``advance``, until ``is_done``."""

    def __init__(self, params: BeamParams, stop_ids: frozenset[int], max_tokens: int) -> None:
        assert max_tokens >= 1
        self.params = params
        self.max_tokens = max_tokens
        self.beams: list[Beam] = [Beam((), 0.0, 0)]  # best first
        self.hypotheses: list[Hypothesis] = []  # best first, at most width
        self._stop_ids = stop_ids

    @property
    def is_done(self) -> bool:
        return not self.beams

    def advance(self, continuations: Sequence[TokenLogprobs]) -> None:
        """One round. ``continuations``: for each beam its ``num_candidates`` most probable tokens (``TokenLogprobs.top``)."""
        candidates = [
            Beam((*beam.token_ids, token_id), beam.logprob + logprob, parent)
            for parent, (beam, each) in enumerate(zip(self.beams, continuations, strict=True))
            for token_id, logprob in each.top
        ]
        candidates.sort(key=lambda candidate: -candidate.logprob)  # stable: equals as their beams are ranked
        self.beams = []
        for rank, candidate in enumerate(candidates):
            reason = self._end_of(candidate)
            if reason is None:
                self.beams.append(candidate)
            elif rank < self.params.width:
                self._keep(candidate, reason)
            if len(self.beams) == self.params.width:
                break
        if self.beams and not self._can_improve():
            self.beams = []

    def _end_of(self, candidate: Beam) -> FinishReason | None:
        if candidate.token_ids[-1] in self._stop_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(candidate.token_ids) >= self.max_tokens else None

    def _keep(self, ended: Beam, reason: FinishReason) -> None:
        score = self._score(ended.logprob, len(ended.token_ids))
        self.hypotheses.append(Hypothesis(ended.token_ids, ended.logprob, score, reason))
        self.hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
        del self.hypotheses[self.params.width :]

    def _can_improve(self) -> bool:
        if len(self.hypotheses) < self.params.width:
            return True
        rule, best = self.params.early_stopping, self.beams[0]
        if rule == "first":
            return False
        far = rule == "never" and self.params.length_penalty > 0.0
        length = self.max_tokens if far else len(best.token_ids)
        return self._score(best.logprob, length) > self.hypotheses[-1].score

    def _score(self, logprob: float, num_tokens: int) -> float:
        return logprob / num_tokens**self.params.length_penalty
