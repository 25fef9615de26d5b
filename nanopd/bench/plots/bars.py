"""Bars: latencies, throughput, dropped requests, and where the time went."""

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanopd.bench.plots.pool import Group, few, groups, loads_of
from nanopd.bench.plots.style import PART_COLOURS, Looks, finish, name_arms, origin_of, panels
from nanopd.bench.record import Record
from nanopd.metrics import percentile

_LATENCIES = (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("e2e_ms", "E2E"))
_PARTS = (
    ("queue_ms", "queue"),
    ("prefill_ms", "prefill"),
    ("transfer_exposed_ms", "transfer (exposed)"),
    ("decode_ms", "decode"),
)
_MAX_LOADS = 6


def latency_bars(record: Record) -> Figure | None:
    """p50 as bars, p99 as marks, for TTFT, TPOT and E2E."""
    found = groups(record)
    shown = [(name, title) for name, title in _LATENCIES if any(group.values(name) for group in found)]
    if not shown:
        return None
    figure, axes = panels(len(shown), width=1.15)
    for ax, (name, title) in zip(axes, shown, strict=True):
        _bars(ax, record, found, partial(_quantile, name=name, q=50.0), partial(_quantile, name=name, q=99.0))
        ax.set_title(title)
        ax.set_ylabel("milliseconds")
    return finish(figure, origin_of(record), "Latency: p50 (bar) and p99 (mark)", axes[0])


def ttft_bars(record: Record) -> Figure | None:
    """TTFT at three percentiles, a panel each."""
    found = groups(record)
    if not any(group.values("ttft_ms") for group in found):
        return None
    figure, axes = panels(3, width=1.15)
    for ax, q in zip(axes, (50.0, 90.0, 99.0), strict=True):
        _bars(ax, record, found, partial(_quantile, name="ttft_ms", q=q))
        ax.set_title(f"p{q:.0f}")
        ax.set_ylabel("TTFT, milliseconds")
    return finish(figure, origin_of(record), "Time to first token", axes[0])


def throughput_bars(record: Record) -> Figure | None:
    """Output tokens and requests per second."""
    found = groups(record)
    if not any(group.median_of("output_tokens_per_s") for group in found):
        return None
    figure, axes = panels(2, width=1.25)
    measures = (
        ("output_tokens_per_s_per_worker", "output tokens/s and worker"),
        ("completed_per_s", "requests/s, all workers"),
    )
    for ax, (name, title) in zip(axes, measures, strict=True):
        _bars(ax, record, found, partial(_figure, name=name))
        ax.set_ylabel(title)
    return finish(figure, origin_of(record), "Throughput", axes[0])


def completed_dropped(record: Record) -> Figure | None:
    """Completed and dropped requests under open load."""
    found = [group for group in groups(record) if group.rate is not None]
    if not found:
        return None
    figure, axes = panels(1, width=2.0)
    ax, looks = axes[0], Looks([arm.name for arm in record.arms])
    labels = few(loads_of(found), 2 * _MAX_LOADS)
    for group, position, width in _positions(record, [group for group in found if group.label in labels], labels):
        num_completed, num_dropped = (
            sum(getattr(one, name) for one in group.stats) for name in ("num_completed", "num_dropped")
        )
        label = group.arm if group.label == labels[0] else None
        ax.bar(
            position,
            num_completed,
            width,
            color=looks.colour(group.arm),
            hatch=looks.hatch(group.arm),
            edgecolor="white",
            label=label,
        )
        if num_dropped:
            ax.bar(position, num_dropped, width, bottom=num_completed, color="white", edgecolor="black", hatch="xxxx")
            ax.annotate(str(num_dropped), (position, num_completed + num_dropped), ha="center", va="bottom", fontsize=7)
    ax.bar(0, 0, color="white", edgecolor="black", hatch="xxxx", label="dropped (number above)")
    _name_loads(ax, labels)
    ax.set_ylabel("requests due in the window")
    return finish(figure, origin_of(record), "Completed and dropped requests", ax)


def phases(record: Record) -> Figure | None:
    """Mean time in each phase, by the engine's own report."""
    found = [group for group in groups(record) if any(sample.phases for sample in group.completed)]
    if not found:
        return None
    labels = few(loads_of(found), _MAX_LOADS)
    figure, axes = panels(len(labels))
    for ax, label in zip(axes, labels, strict=True):
        here = [group for group in found if group.label == label]
        bottoms = [0.0] * len(here)
        for (name, title), colour, hatch in zip(_PARTS, PART_COLOURS, ("", "///", "xxx", "..."), strict=True):
            means = [_mean_phase(group, name) for group in here]
            ax.bar(
                range(len(here)), means, 0.65, bottom=bottoms, color=colour, hatch=hatch, edgecolor="white", label=title
            )
            bottoms = [bottom + mean for bottom, mean in zip(bottoms, means, strict=True)]
        name_arms(ax.xaxis, [group.arm for group in here], figure.get_figwidth() / min(len(labels), 3))
        ax.set_title(label)
        ax.set_ylabel("milliseconds per request, mean")
        ax.grid(axis="x", visible=False)
    return finish(figure, origin_of(record), "Where the time went", axes[0])


def _bars(
    ax: Axes,
    record: Record,
    found: Sequence[Group],
    height: Callable[[Group], float | None],
    mark: Callable[[Group], float | None] | None = None,
) -> None:
    looks, labels = Looks([arm.name for arm in record.arms]), few(loads_of(found), _MAX_LOADS)
    named: set[str] = set()
    for group, position, width in _positions(record, [group for group in found if group.label in labels], labels):
        value = height(group)
        if value is None:
            continue
        label = None if group.arm in named else group.arm
        named.add(group.arm)
        ax.bar(
            position,
            value,
            width,
            color=looks.colour(group.arm),
            hatch=looks.hatch(group.arm),
            edgecolor="white",
            label=label,
        )
        if mark is not None and (top := mark(group)) is not None:
            ax.plot([position, position], [value, top], color="black", linewidth=0.8)
            ax.plot(position, top, marker="_", color="black", markersize=7)
    _name_loads(ax, labels)


def _positions(record: Record, found: Sequence[Group], labels: Sequence[str]) -> list[tuple[Group, float, float]]:
    """(group, centre, width) of each bar."""
    arms = [arm.name for arm in record.arms]
    width = 0.8 / len(arms)
    return [
        (group, labels.index(group.label) + (arms.index(group.arm) - (len(arms) - 1) / 2) * width, width * 0.92)
        for group in found
    ]


def _name_loads(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_xticks(
        range(len(labels)), [label.replace(", ", "\n") for label in labels], fontsize=7.5 if len(labels) > 4 else 8.5
    )
    ax.grid(axis="x", visible=False)


def _figure(group: Group, name: str) -> float | None:
    return group.median_of(name)


def _quantile(group: Group, name: str, q: float) -> float | None:
    values = group.values(name)
    return percentile(values, q) if values else None


def _mean_phase(group: Group, name: str) -> float:
    values = [getattr(sample.phases, name) for sample in group.completed if sample.phases is not None]
    return sum(values) / len(values)
