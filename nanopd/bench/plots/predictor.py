"""Figures of the output-length predictor's scores (``benchmarks/predictor.py`` writes them)."""

from textwrap import fill
from typing import Any

import msgspec
from matplotlib.figure import Figure

from nanopd.bench.plots.style import Looks, finish, panels

_RIVALS = {"ours": "posterior", "bucketed_mean": "bucketed mean", "sliding_mean": "sliding mean"}


class PredictorScores(msgspec.Struct, frozen=True):
    """The parts that are drawn."""

    date: str
    commit: str
    traces: dict[str, dict[str, Any]]  # requests, scores by rival, pit_deciles


def calibration(scores: PredictorScores) -> Figure | None:
    """Where lengths fell in their predicted distributions, a bar for each tenth: flat at 10 % is calibrated."""
    traces = {name: trace["pit_deciles"] for name, trace in scores.traces.items() if trace.get("pit_deciles")}
    if not traces:
        return None
    looks = Looks(["share"])
    figure, axes = panels(len(traces), width=0.75)
    for ax, (name, deciles) in zip(axes, traces.items(), strict=True):
        ax.bar(
            [10 * index + 5 for index in range(10)], [100 * share for share in deciles], 9, color=looks.colour("share")
        )
        ax.axhline(10.0, color="black", linewidth=0.8, linestyle="--")
        ax.set_ylim(0.0, max(20.0, 110 * max(deciles)))
        ax.set_title(f"{name}: 90 % interval\ncovers {scores.traces[name]['ours']['coverage_90']:.1%}", fontsize=8)
        ax.set_xlabel("predicted quantile, %")
        ax.set_ylabel("share of requests, %")
    return finish(figure, _origin(scores), "Predictor calibration (flat is calibrated)")


def errors(scores: PredictorScores) -> Figure | None:
    """Mean absolute error against the means that others use."""
    if not scores.traces:
        return None
    looks = Looks(list(_RIVALS))
    figure, axes = panels(1, width=2.2)
    ax, width = axes[0], 0.8 / len(_RIVALS)
    for number, (rival, label) in enumerate(_RIVALS.items()):
        positions = [index + (number - 1) * width for index in range(len(scores.traces))]
        heights = [trace[rival]["mae"] for trace in scores.traces.values()]
        ax.bar(
            positions,
            heights,
            width * 0.92,
            color=looks.colour(rival),
            hatch=looks.hatch(rival),
            edgecolor="white",
            label=label,
        )
    ax.set_xticks(range(len(scores.traces)), [fill(name, 12) for name in scores.traces], fontsize=7.5)
    ax.set_ylabel("mean absolute error, tokens")
    ax.grid(axis="x", visible=False)
    return finish(figure, _origin(scores), "Output-length prediction", ax)


def _origin(scores: PredictorScores) -> str:
    return f"{scores.date}, commit {scores.commit or 'unknown'}"
