"""Ways of decoding beyond one token at a time: drafts to be verified, beams to be ranked. Pure: no blocks, no steps, no tensors."""

from nanopd.decoding.beam_search import Beam, BeamSearch, num_candidates
from nanopd.decoding.drafter import DraftContext, Drafter
from nanopd.decoding.prompt_lookup import PromptLookup

__all__ = ["Beam", "BeamSearch", "DraftContext", "Drafter", "PromptLookup", "num_candidates"]
