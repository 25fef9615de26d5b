"""Every request: violins, cumulative distributions, latency against prompt length."""

from typing import Any

from matplotlib.figure import Figure

from nanopd.bench.plots.pool import few, groups, loads_of
from nanopd.bench.plots.style import Looks, finish, name_arms, origin_of, panels
from nanopd.bench.record import Record

_MIN_VIOLIN = 3  # requests
_MAX_LOADS = 4


def violins(record: Record) -> Figure | None:
    """E2E of each arm, a panel for each load; the line is the median."""
    found = [group for group in groups(record) if len(set(group.values("e2e_ms"))) >= _MIN_VIOLIN]
    if not found:
        return None
    looks, labels = Looks([arm.name for arm in record.arms]), few(loads_of(found), _MAX_LOADS)
    figure, axes = panels(len(labels))
    for ax, label in zip(axes, labels, strict=True):
        here = [group for group in found if group.label == label]
        drawn: dict[str, Any] = ax.violinplot(
            [group.values("e2e_ms") for group in here], range(len(here)), widths=0.8, showmedians=True
        )
        for body, group in zip(drawn["bodies"], here, strict=True):
            body.set(
                facecolor=looks.colour(group.arm),
                edgecolor="black",
                alpha=0.75,
                hatch=looks.hatch(group.arm),
                linewidth=0.6,
            )
        for name in ("cbars", "cmins", "cmaxes", "cmedians"):
            drawn[name].set(color="black", linewidth=0.9)
        name_arms(ax.xaxis, [group.arm for group in here], figure.get_figwidth() / min(len(labels), 3))
        ax.set_ylim(bottom=0.0)
        ax.set_title(label)
        ax.set_ylabel("E2E, milliseconds")
        ax.grid(axis="x", visible=False)
    return finish(figure, origin_of(record), "End-to-end latency of every completed request")


def scatter(record: Record) -> Figure | None:
    """TTFT (or E2E, without streaming) against prompt length."""
    found = groups(record)
    name, title = ("ttft_ms", "TTFT") if any(group.values("ttft_ms") for group in found) else ("e2e_ms", "E2E")
    found = [group for group in found if group.values(name)]
    if not found:
        return None
    looks, labels = Looks([arm.name for arm in record.arms]), few(loads_of(found), _MAX_LOADS)
    figure, axes = panels(len(labels))
    for ax, label in zip(axes, labels, strict=True):
        for group in (group for group in found if group.label == label):
            points = [
                (sample.num_prompt_tokens, value)
                for sample in group.completed
                if (value := getattr(sample, name)) is not None
            ]
            x, y = zip(*points, strict=True)
            ax.scatter(
                x,
                y,
                s=14,
                color=looks.colour(group.arm),
                marker=looks.marker(group.arm),
                alpha=0.7,
                linewidths=0,
                label=group.arm,
            )
        ax.set_ylim(bottom=0.0)
        ax.set_title(label)
        ax.set_xlabel("prompt, tokens")
        ax.set_ylabel(f"{title}, milliseconds")
    return finish(figure, origin_of(record), f"{title} against prompt length", axes[0])


def cdf_ttft(record: Record) -> Figure | None:
    """The share of requests that had their first token by a time."""
    return _cdf(record, "ttft_ms", "TTFT", record.slo_ttft_ms)


def cdf_tpot(record: Record) -> Figure | None:
    """The share of requests whose mean time per output token was below."""
    return _cdf(record, "tpot_ms", "TPOT", record.slo_tpot_ms)


def _cdf(record: Record, name: str, title: str, objective: float | None) -> Figure | None:
    found = [group for group in groups(record) if group.values(name)]
    if not found:
        return None
    looks, labels = Looks([arm.name for arm in record.arms]), few(loads_of(found), _MAX_LOADS)
    figure, axes = panels(len(labels))
    for ax, label in zip(axes, labels, strict=True):
        for group in (group for group in found if group.label == label):
            values = sorted(group.values(name))
            # Of all measured requests: dropped ones never get there, so the curve of an arm that drops ends below 1.
            shares = [(index + 1) / len(group.measured) for index in range(len(values))]
            ax.step(
                [values[0], *values],
                [0.0, *shares],
                where="post",
                color=looks.colour(group.arm),
                linestyle=looks.line(group.arm),
                label=group.arm,
            )
        if objective is not None:
            ax.axvline(objective, color="black", linewidth=0.8, linestyle=":")
            ax.annotate("objective", (objective, 0.02), rotation=90, fontsize=7, ha="right", va="bottom")
        ax.set_ylim(0.0, 1.02)
        ax.set_title(label)
        ax.set_xlabel(f"{title}, milliseconds")
        ax.set_ylabel("share of requests")
    return finish(figure, origin_of(record), f"{title}: cumulative distribution", axes[0])
