"""The seam of speculative decoding: who guesses the next tokens of a sequence.

A guess costs little and the model checks all of it in one step (Leviathan et al., "Fast inference from transformers via speculative decoding",
ICML 2023). Every token is still the one the model itself draws in that place: its uniform number depends on seed and position alone, so a
guess is right or wrong, at any temperature, and a wrong one changes nothing but the time.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nanopd.request import Request


@dataclass(frozen=True, slots=True)
class DraftContext:
    """A sequence whose next step may verify a draft."""

    seq_id: str
    request: Request
    token_ids: array  # int32: the prompt, then the output so far; not to be kept, it grows
    num_prompt_tokens: int
    max_draft_tokens: int  # at least 1: what the sequence's own length allows, and what pays


class Drafter(Protocol):
    """Guesses tokens; real: ``PromptLookup``, ``engine.DraftModel``."""

    def propose(self, contexts: Sequence[DraftContext]) -> Mapping[str, Sequence[int]]:
        """By ``seq_id``, the tokens that may follow. A sequence without a guess may be left out; what is too long is cut."""
        ...
