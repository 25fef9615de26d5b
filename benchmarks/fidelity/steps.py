"""What is predicted of the steps that the engine ran: by the profile alone, and by who has heard of the steps before."""

from collections.abc import Sequence
from statistics import median

from nanopd.config import ClusterConfig
from nanopd.cost_model import OnlineStepModel, StepFeatures, StepModel
from nanopd.messages import StepTiming

Steps = Sequence[tuple[StepFeatures, float]]  # with their milliseconds

_HEARTBEAT_MS = 1e3 * ClusterConfig().heartbeat_interval_s


def step_errors(predicted: Sequence[float], steps: Steps) -> dict[str, dict[str, float]]:
    """By kind of step: how many, the median error of the prediction and its median excess."""
    by_kind: dict[str, list[float]] = {}
    for ours, (features, ms) in zip(predicted, steps, strict=True):
        by_kind.setdefault(features.kind, []).append(ours / ms - 1.0)
    if steps:
        by_kind["all"] = [error for errors in list(by_kind.values()) for error in errors]
    return {
        kind: {"count": len(errors), "error": median(map(abs, errors)), "excess": median(errors)}
        for kind, errors in by_kind.items()
    }


def by_profile(model: StepModel, steps: Steps) -> list[float]:
    """Milliseconds of each step."""
    return [model.predict_ms(features) for features, _ in steps]


def foreseen(model: StepModel, steps: Steps) -> list[float]:
    """Milliseconds of each step as the router foresees it: by the profile and the steps before, as heartbeats told of them."""
    online, predicted, untold, spent_ms = OnlineStepModel(model), [], list[StepTiming](), 0.0
    for f, ms in steps:
        predicted.append(online.predict_ms(f))
        untold.append(
            StepTiming(f.num_prefill_tokens, f.prefill_attention, f.num_decodes, f.decode_context, ms, f.num_prefills)
        )
        spent_ms += ms
        if spent_ms >= _HEARTBEAT_MS:
            online.learn(untold)
            untold, spent_ms = [], 0.0
    return predicted


def describe_errors(errors: dict[str, dict[str, float]]) -> str:
    """In a line."""
    return ", ".join(
        f"{kind} {row['error']:.1%} of {row['count']} ({row['excess']:+.1%})" for kind, row in errors.items()
    )
