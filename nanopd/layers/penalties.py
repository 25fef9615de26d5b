"""Changes to logits before sampling: bias, penalties, suppression."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nanopd.request import SamplingParams


def adjust_row_(
    logits_V: torch.Tensor,
    params: SamplingParams,
    prompt_token_ids: Sequence[int],
    output_token_ids: Sequence[int],
    suppressed_token_ids: Sequence[int],
) -> None:
    """Adjusts one row in place; ids outside the vocabulary are ignored.

    Repetition (arXiv:1909.05858), over prompt and output: positive logits are divided by the penalty, negative ones multiplied. Presence and
    frequency (the OpenAI API's), over the output: subtracted once, and once per occurrence.
    """
    vocab_size = logits_V.shape[0]
    if params.logit_bias:
        _add_bias(logits_V, params.logit_bias)
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate([_known(prompt_token_ids, vocab_size), _known(output_token_ids, vocab_size)]))
        ids = torch.from_numpy(seen).to(logits_V.device)
        values, penalty = logits_V[ids], params.repetition_penalty
        logits_V[ids] = torch.where(values > 0, values / penalty, values * penalty)
    if params.presence_penalty or params.frequency_penalty:
        seen, counts = np.unique(_known(output_token_ids, vocab_size), return_counts=True)
        cost = torch.from_numpy(params.presence_penalty + params.frequency_penalty * counts)
        logits_V[torch.from_numpy(seen).to(logits_V.device)] -= cost.to(logits_V)
    if suppressed_token_ids:
        ids = torch.from_numpy(_known(suppressed_token_ids, vocab_size)).to(logits_V.device)
        logits_V[ids] = float("-inf")


def needs_adjustment(params: SamplingParams, suppressed_token_ids: Sequence[int]) -> bool:
    """Whether ``adjust_row_`` would change anything."""
    return bool(params.logit_bias or params.needs_history or suppressed_token_ids)


def _add_bias(logits_V: torch.Tensor, bias: Mapping[int, float]) -> None:
    known = {token: value for token, value in bias.items() if 0 <= token < logits_V.shape[0]}
    ids = torch.tensor(list(known), dtype=torch.int64, device=logits_V.device)
    logits_V[ids] += torch.tensor(list(known.values()), dtype=logits_V.dtype, device=logits_V.device)


def _known(token_ids: Sequence[int], vocab_size: int) -> np.ndarray:
    ids = np.asarray(token_ids, dtype=np.int64)
    return ids[(ids >= 0) & (ids < vocab_size)]
