"""Ways of decoding beyond one token at a time: drafts to be verified, beams to be ranked. Pure: no blocks, no steps, no tensors."""

from nanopd.decoding.beam_search import Beam, BeamSearch, num_candidates
from nanopd.decoding.draft_length import Chances, GuessRecord, draft_length
from nanopd.decoding.drafter import DraftContext, Drafter
from nanopd.decoding.guess_prices import GuessPrices, Prices
from nanopd.decoding.prompt_lookup import PromptLookup

__all__ = [
    "Beam",
    "BeamSearch",
    "Chances",
    "DraftContext",
    "Drafter",
    "GuessPrices",
    "GuessRecord",
    "Prices",
    "PromptLookup",
    "draft_length",
    "num_candidates",
]
