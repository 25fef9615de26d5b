"""Drawing tokens from logits. One algorithm wherever a token is sampled, so that a seed gives the same tokens on every path.

A row's distribution: p = softmax(logits / temperature) in float32, then three cuts, each on what the one before has left,

- min_p: keep p >= min_p * max(p);
- top_k: keep the k most probable;
- top_p: keep the smallest set of most probable tokens whose share of the mass left is at least top_p (nucleus sampling, arXiv:1904.09751).

Equal probabilities stand or fall together: a cut is a threshold on p, so ties with the last token kept are kept too. The token is then the first
one, *in order of token ids*, whose cumulative mass exceeds uniform * total: no sort of the vocabulary decides the outcome.
Temperature 0 takes the most probable token, the lowest id among equals.

Shape legend: R rows, V vocabulary, C candidates.
"""

from dataclasses import dataclass

import torch

_NUM_CANDIDATES = 1024  # most cuts fall among these; where one does not, the whole row is sorted


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """Parameters by row. The flags, known on the host, say which work can be left out."""

    temperature_R: torch.Tensor  # float32; 0: greedy
    top_k_R: torch.Tensor  # int64; 0: off
    top_p_R: torch.Tensor  # float32; 1: off
    min_p_R: torch.Tensor  # float32; 0: off
    uniform_R: torch.Tensor  # float32 in [0, 1)
    any_random: bool
    any_greedy: bool
    any_cut: bool


def sample(logits_RV: torch.Tensor, sampling: SamplingTensors | None) -> torch.Tensor:
    """Token ids, int64 [R]. ``sampling`` None: every row is greedy."""
    if logits_RV.is_cuda:
        return _sample_in_one_launch(logits_RV, sampling)
    if sampling is None or not sampling.any_random:
        return logits_RV.argmax(dim=-1)
    p_RV = probabilities(logits_RV, sampling)
    drawn = draw(p_RV, sampling.uniform_R)
    if not sampling.any_greedy:
        return drawn
    return torch.where(sampling.temperature_R > 0, drawn, logits_RV.argmax(dim=-1))


def _sample_in_one_launch(logits_RV: torch.Tensor, sampling: SamplingTensors | None) -> torch.Tensor:
    """The same rules in our kernel; this module's torch code is its oracle."""
    from nanopd.kernels import sampling as kernel

    if sampling is None or not sampling.any_random:
        return kernel.greedy(logits_RV)
    cuts = (sampling.top_k_R, sampling.top_p_R, sampling.min_p_R) if sampling.any_cut else (None, None, None)
    return kernel.sample(logits_RV, sampling.temperature_R, sampling.uniform_R, *cuts)


def probabilities(logits_RV: torch.Tensor, sampling: SamplingTensors) -> torch.Tensor:
    """float32 [R, V]: softmax with temperature, zero where cut off; what is kept is not renormalised."""
    temperature = torch.where(sampling.temperature_R > 0, sampling.temperature_R, 1.0)
    p_RV = torch.softmax(logits_RV.float() / temperature[:, None], dim=-1)
    if not sampling.any_cut:
        return p_RV
    threshold_R = _thresholds(p_RV, sampling)
    return p_RV.masked_fill_(p_RV < threshold_R[:, None], 0.0)


def draw(p_RV: torch.Tensor, uniform_R: torch.Tensor) -> torch.Tensor:
    """Inverse of the cumulative distribution in token order: the first id whose cumulative mass exceeds uniform * total. int64 [R]."""
    cumulative = p_RV.cumsum(dim=-1)
    total = cumulative[:, -1]
    # Rounding may lift uniform * total to the total, which no cumulative mass exceeds.
    target = torch.minimum(uniform_R * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)


def _thresholds(p_RV: torch.Tensor, sampling: SamplingTensors) -> torch.Tensor:
    """The smallest probability each row keeps."""
    V = p_RV.shape[1]
    num_candidates = min(V, max(_NUM_CANDIDATES, int(sampling.top_k_R.max())))
    threshold_R, settled_R = _thresholds_among(num_candidates, p_RV, sampling)
    if num_candidates < V and not bool(settled_R.all()):
        threshold_R = _thresholds_among(V, p_RV, sampling)[0]
    return threshold_R


def _thresholds_among(
    num_candidates: int, p_RV: torch.Tensor, sampling: SamplingTensors
) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds found among the most probable tokens, and whether each row's nucleus lies among them."""
    top_RC = p_RV.topk(num_candidates, dim=-1).values
    floor_R = sampling.min_p_R * top_RC[:, 0]
    has_k = sampling.top_k_R > 0
    kth_R = top_RC.gather(1, (sampling.top_k_R - 1).clamp(0, num_candidates - 1)[:, None]).squeeze(1)
    floor_R = torch.where(has_k, torch.maximum(floor_R, kth_R), floor_R)
    left_RC = top_RC.masked_fill(top_RC < floor_R[:, None], 0.0)
    # The mass top_p is a share of: with ties at the floor possibly beyond the candidates, summed over the whole row.
    mass_R = p_RV.masked_fill(p_RV < floor_R[:, None], 0.0).sum(dim=-1)
    reached_RC = left_RC.cumsum(dim=-1) >= (sampling.top_p_R * mass_R)[:, None]
    crossing_R = reached_RC.int().argmax(dim=-1)
    nucleus_R = top_RC.gather(1, crossing_R[:, None]).squeeze(1)
    cuts_mass = sampling.top_p_R < 1.0
    settled_R = reached_RC.any(dim=-1)
    # A row whose rounding never reaches its share keeps all that the floor left.
    threshold_R = torch.where(cuts_mass & settled_R, torch.maximum(floor_R, nucleus_R), floor_R)
    return threshold_R, settled_R | ~cuts_mass
