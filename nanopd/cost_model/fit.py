"""A StepModel from measured steps: non-negative least squares on relative errors, robust against outliers.

The tables enter as increments between neighbouring counts, each at least 0, so that no fitted time ever falls as work grows. Where the data leave it
open whether a decode costs as a token or as a sampled row, a slight penalty on the rows says: as a token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from msgspec import structs

from nanopd.cost_model.features import StepFeatures, StepSample
from nanopd.cost_model.step_model import QUANTILE_LEVELS, StepModel, StepTerms, Table, interpolate, padded_count

_KNOT_RATIO = 1.3  # small counts closer than that share a knot
_FINE_COUNT, _FINE_RATIO = (
    256,
    1.0015,
)  # from here on matrix products fill whole tiles, and a step may cost half as much again as one token less
_ROW_PENALTY = 0.02  # relative error that would have to be gained by moving all of a step's cost to its rows
_NUM_ROBUST_ROUNDS = 6
_HUBER = 1.5  # in robust standard deviations
_MIN_RESIDUALS = 8  # of one kind of step, for quantiles of its own


@dataclass(frozen=True, slots=True)
class Ladders:
    """Sizes of the CUDA graphs, if there are any: rows of decode steps, tokens of steps with prompts."""

    decode: tuple[int, ...] = ()
    prompt: tuple[int, ...] = ()

    def padded(self, f: StepFeatures) -> tuple[int, int]:
        """Tokens and decode rows that a step is run with."""
        if f.num_prefill_tokens:
            return padded_count(self.prompt, f.num_tokens), f.num_decodes
        num_rows = padded_count(self.decode, f.num_decodes)
        return num_rows, num_rows


def fit_step_model(samples: Sequence[StepSample], ladders: Ladders = Ladders(), num_folds: int = 5) -> StepModel:
    """The model that fits ``samples`` (milliseconds) best.

    The residual quantiles come from samples held out of the fit, fold by fold. Raises ValueError below four samples.
    """
    used = [sample for sample in samples if sample.features.num_tokens and sample.ms > 0.0]
    if len(used) < 4:
        raise ValueError(f"a step model needs at least 4 measured steps, got {len(used)}")
    terms = _fit_terms(used, ladders)
    return StepModel(_with_quantiles(terms, _held_out_ratios(used, ladders, num_folds)))


def median_error(model: StepModel, samples: Sequence[StepSample]) -> float:
    """Median relative error of the predictions."""
    return median(abs(model.predict_ms(sample.features) / sample.ms - 1.0) for sample in samples)


@dataclass(frozen=True, slots=True)
class _Design:
    """What the columns of the least-squares problem stand for."""

    token_counts: tuple[int, ...]
    decode_counts: tuple[int, ...]  # starts with 0
    ladders: Ladders

    def row(self, f: StepFeatures) -> list[float]:
        num_tokens, num_decodes = self.ladders.padded(f)
        return [
            1.0,
            *_ramps(self.token_counts, num_tokens),
            *_ramps(self.decode_counts, num_decodes),
            float(f.num_prefill_tokens > 0),
            float(f.num_prefills),
            f.prefill_attention,
            float(f.decode_context),
        ]

    def terms(self, solution: Sequence[float]) -> StepTerms:
        num_tokens, num_decodes = len(self.token_counts), len(self.decode_counts)
        tokens = tuple(accumulate(solution[:num_tokens]))
        decodes = tuple(accumulate(solution[num_tokens : num_tokens + num_decodes - 1], initial=0.0))
        prefill, per_prefill, attention, context = solution[num_tokens + num_decodes - 1 :]
        return StepTerms(
            tokens=Table(self.token_counts, tokens),
            decodes=Table(self.decode_counts, decodes),
            prefill_ms=prefill,
            per_prefill_ms=per_prefill,
            attention_ms=attention,
            context_ms=context,
            ladder=self.ladders.decode,
            prompt_ladder=self.ladders.prompt,
        )


def _fit_terms(samples: Sequence[StepSample], ladders: Ladders) -> StepTerms:
    import numpy as np  # here: the simulator starts without them
    from scipy.optimize import nnls

    counts = [ladders.padded(sample.features) for sample in samples]
    design = _Design(
        _knots(num_tokens for num_tokens, _ in counts), (0, *_knots(num_decodes for _, num_decodes in counts)), ladders
    )
    measured = np.array([sample.ms for sample in samples])
    relative = np.array([design.row(sample.features) for sample in samples]) / measured[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-30)
    relative /= scale
    first_row, num_rows = len(design.token_counts), len(design.decode_counts) - 1
    penalty = np.zeros((num_rows, relative.shape[1]))
    penalty[np.arange(num_rows), first_row + np.arange(num_rows)] = _ROW_PENALTY * np.sqrt(
        len(samples) / max(1, num_rows)
    )
    target = np.concatenate([np.ones(len(samples)), np.zeros(num_rows)])
    weights = np.ones(len(samples))
    for _ in range(_NUM_ROBUST_ROUNDS):
        solution, _norm = nnls(
            np.vstack([relative * weights[:, None], penalty]), target * np.append(weights, np.zeros(num_rows))
        )
        residuals = np.abs(relative @ solution - 1.0)
        spread = max(1.4826 * float(np.median(residuals)), 1e-4)
        weights = np.sqrt(np.minimum(1.0, _HUBER * spread / np.maximum(residuals, 1e-12)))
    return design.terms((solution / scale).tolist())


def _knots(counts: Iterable[int]) -> tuple[int, ...]:
    """The counts that were measured, neighbours merged; always the smallest and the largest."""
    ordered = sorted({count for count in counts if count > 0})
    knots = ordered[:1]
    for count in ordered[1:-1]:
        ratio = _FINE_RATIO if count > _FINE_COUNT else _KNOT_RATIO
        if count >= knots[-1] * ratio and count * ratio <= ordered[-1]:
            knots.append(count)
    return tuple(knots + [count for count in ordered[-1:] if count > knots[-1]])


def _ramps(counts: tuple[int, ...], count: float) -> list[float]:
    """How far ``count`` has gone through each interval of ``counts``; the last one has no end."""
    shares = [(count - low) / (high - low) for low, high in zip(counts, counts[1:], strict=False)]
    return [max(0.0, min(1.0, share)) for share in shares[:-1]] + [max(0.0, share) for share in shares[-1:]]


def _held_out_ratios(samples: Sequence[StepSample], ladders: Ladders, num_folds: int) -> dict[str, list[float]]:
    """Measured over predicted, by kind of step, each predicted by a fit that has not seen it."""
    ratios: dict[str, list[float]] = {}
    num_folds = max(1, min(num_folds, len(samples) // 4))
    for fold in range(num_folds):
        rest = [sample for i, sample in enumerate(samples) if num_folds == 1 or i % num_folds != fold]
        model = StepModel(_fit_terms(rest, ladders))
        for sample in samples[fold::num_folds]:
            predicted = model.predict_ms(sample.features)
            if predicted > 0.0:
                ratios.setdefault(sample.features.kind, []).append(sample.ms / predicted)
    return ratios


def _with_quantiles(terms: StepTerms, ratios: dict[str, list[float]]) -> StepTerms:
    every = [ratio for kind in ratios.values() for ratio in kind]
    quantiles = {}
    for kind in ("decode", "prefill", "mixed"):
        own = ratios.get(kind, [])
        values = sorted(own if len(own) >= _MIN_RESIDUALS else every)
        ranks = [i / max(1, len(values) - 1) for i in range(len(values))]
        quantiles[kind] = tuple(interpolate(ranks, values, level) for level in QUANTILE_LEVELS)
    return structs.replace(terms, ratio_quantiles=quantiles)
