"""The rules of sampling written out in float64, and logits to try them on."""

import torch

ROUNDING = 2e-5  # of a float32 sum over a vocabulary, relative


def kept(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """Probabilities of one row, zero where cut; equal logits are kept or cut together."""
    logits = logits.double()
    p = torch.softmax(logits / temperature, dim=-1)
    keep = p >= min_p * p.max()
    if top_k > 0:
        left = logits[keep]
        keep &= logits >= left.topk(min(top_k, left.numel())).values[-1]
    if top_p < 1:
        ordered, order = torch.where(keep, p, 0).sort(descending=True)
        reached = ordered.cumsum(0) >= top_p * ordered.sum()
        if reached.any():
            keep &= logits >= logits[order[reached.int().argmax()]]
    return torch.where(keep, p, 0)


def allowed(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> set[int]:
    """The tokens a float32 implementation may draw: one, unless the draw or the cut lies within rounding of an edge."""
    if temperature == 0:
        return {int((logits == logits.max()).nonzero()[0])}
    tokens: set[int] = set()
    for share in {top_p, top_p * (1 - ROUNDING), min(top_p * (1 + ROUNDING), 1.0)}:
        for floor in {min_p, min_p * (1 - ROUNDING), min(min_p * (1 + ROUNDING), 1.0)}:
            cumulative = kept(logits, temperature, top_k, share, floor).cumsum(0)
            total = cumulative[-1]
            targets = total * torch.tensor([uniform, uniform - ROUNDING, uniform + ROUNDING], device=logits.device)
            found = torch.searchsorted(cumulative, targets.clamp(0, float(total) * (1 - 1e-12)), right=True)
            tokens.update(found.tolist())
    return tokens


def make_logits(num_rows: int, vocab: int, dtype: torch.dtype, kind: str, device: str) -> torch.Tensor:
    """normal | peaked (as a language model's) | negative | masked (nine tenths)."""
    logits = torch.randn(num_rows, vocab, device=device)
    if kind == "peaked":
        logits = logits * 2 - 3 + 14 * (torch.rand_like(logits) < 2e-4)
    elif kind == "negative":
        logits = logits - 20
    elif kind == "masked":
        logits = torch.where(torch.rand_like(logits) < 0.9, -float("inf"), logits)
        logits[:, vocab // 2] = 1.0
    return logits.to(dtype)


def make_crowd(num_rows: int, vocab: int, high: float, spread: float, device: str) -> torch.Tensor:
    """A twelfth of the tokens within ``spread`` of ``high``, far above most others: one bin of a coarse histogram."""
    logits = torch.randn(num_rows, vocab, device=device) - 6
    crowd = torch.randperm(vocab, device=device)[: vocab // 12]
    logits[:, crowd] = high + spread * torch.rand(num_rows, len(crowd), device=device)
    return logits


def make_parameters(num_rows: int) -> tuple[list[float], list[int], list[float], list[float], list[float]]:
    """temperature, top_k, top_p, min_p, uniform, the unusual ones too."""

    def pick(*values):
        return [values[i] for i in torch.randint(0, len(values), (num_rows,)).tolist()]

    return (
        pick(0.0, 0.3, 0.6, 1.0, 1.7),
        pick(0, 0, 1, 2, 20, 50, 1000, 10**6),
        pick(1.0, 1.0, 0.0, 0.5, 0.9, 0.95, 0.999),
        pick(0.0, 0.0, 0.05, 0.3, 1.0),
        pick(0.0, 0.999999) if num_rows < 3 else torch.rand(num_rows).tolist(),
    )
