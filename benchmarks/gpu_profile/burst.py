"""How long a cool GPU computes prompts at full clocks: a profile's steps are too short to heat it, a trace's are not."""

from collections.abc import Sequence
from statistics import median

from msgspec import structs

from nanopd.cost_model import StepFeatures, StepModel

_FEWEST_TOKENS = 300  # shorter steps are bound by memory, not by power
_LIMITS_MS = range(10, 100, 5)


def with_burst(step: StepModel, steps: Sequence[tuple[StepFeatures, float]]) -> StepModel:
    """Finds where steps with prompts begin to take longer in an unbroken row of them, and how much longer."""
    rows, spent_ms = [], 0.0
    for features, ms in steps:
        if not features.num_prefill_tokens:
            spent_ms = 0.0
            continue
        if features.num_prefill_tokens >= _FEWEST_TOKENS:
            rows.append((spent_ms, ms / step.device_ms(features)))
        spent_ms += ms

    def split(limit_ms: float) -> tuple[list[float], list[float]]:
        return [r for spent, r in rows if spent < limit_ms], [r for spent, r in rows if spent >= limit_ms]

    def error(limit_ms: float) -> float:
        return sum(abs(ratio - median(part)) for part in split(limit_ms) for ratio in part)

    limits_ms = [limit for limit in _LIMITS_MS if all(split(limit))]
    if not limits_ms:
        return step
    limit_ms = min(limits_ms, key=error)
    before, after = split(limit_ms)
    ratio = round(median(after) / median(before), 3)
    if ratio <= 1.0:
        return step
    return StepModel(structs.replace(step.terms, burst_ms=float(limit_ms), sustained_ratio=ratio))
