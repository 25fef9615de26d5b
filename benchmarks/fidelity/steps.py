"""What the profile says of the steps that the engine ran."""

from collections.abc import Sequence
from statistics import median

from nanopd.cost_model import HardwareProfile, StepFeatures


def step_errors(profile: HardwareProfile, steps: Sequence[tuple[StepFeatures, float]]) -> dict[str, dict[str, float]]:
    """By kind of step: how many, the median error of the prediction and its median excess."""
    by_kind: dict[str, list[float]] = {}
    for features, ms in steps:
        by_kind.setdefault(features.kind, []).append(profile.step.predict_ms(features) / ms - 1.0)
    if steps:
        by_kind["all"] = [error for errors in list(by_kind.values()) for error in errors]
    return {
        kind: {"count": len(errors), "error": median(map(abs, errors)), "excess": median(errors)}
        for kind, errors in by_kind.items()
    }


def describe_errors(errors: dict[str, dict[str, float]]) -> str:
    """In a line."""
    return ", ".join(
        f"{kind} {row['error']:.1%} of {row['count']} ({row['excess']:+.1%})" for kind, row in errors.items()
    )
