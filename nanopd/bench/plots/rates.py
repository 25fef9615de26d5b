"""Against the request rate, or against the objectives."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanopd.bench.plots.pool import Group, few, groups, loads_of, rates_of
from nanopd.bench.plots.style import Looks, finish, log_axis, origin_of, panels
from nanopd.bench.record import Record
from nanopd.metrics import percentile
from nanopd.request import Slo

_THROUGHPUTS = (
    ("output_tokens_per_s_per_worker", "output tokens/s and worker"),
    ("completed_per_s", "completed requests/s"),
)
_LATENCIES = (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("e2e_ms", "E2E"))
_SCALES = [0.25 * 2 ** (step / 4) for step in range(17)]  # 0.25 to 4


def latency_by_rate(record: Record) -> Figure | None:
    """p50 and p99 of TTFT, TPOT and E2E as the rate grows."""
    found = _by_rate(record)
    measures = [(name, title) for name, title in _LATENCIES if any(group.values(name) for group in found)]
    if not measures:
        return None
    looks = Looks([arm.name for arm in record.arms])
    figure, axes = panels(len(measures), width=1.1)
    for ax, (name, title) in zip(axes, measures, strict=True):
        for arm, line in _lines(record, found):
            line = [group for group in line if group.values(name)]
            for q, style in ((50.0, "-"), (99.0, "--")):
                values = [percentile(group.values(name), q) for group in line]
                _curve(ax, looks, arm, line, values, label=f"{arm} p{q:.0f}", linestyle=style)
        log_axis(ax.yaxis)
        ax.set_title(title)
        ax.set_xlabel("offered requests/s")
        ax.set_ylabel("milliseconds (log)")
    return finish(figure, origin_of(record), f"Latency by rate, {found[0].workload}", axes[0])


def throughput_by_rate(record: Record) -> Figure | None:
    """Tokens and completed requests per second as the rate grows."""
    found = _by_rate(record)
    if not found:
        return None
    looks = Looks([arm.name for arm in record.arms])
    figure, axes = panels(2, width=1.1)
    rates = rates_of(found, found[0].workload)
    axes[1].plot(rates, rates, color="#999999", linewidth=0.8, label="all that is offered")
    for ax, (name, title) in zip(axes, _THROUGHPUTS, strict=True):
        for arm, line in _lines(record, found):
            _curve(ax, looks, arm, line, [group.median_of(name) or 0.0 for group in line])
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("offered requests/s")
        ax.set_ylabel(title)
    return finish(figure, origin_of(record), f"Throughput by rate, {found[0].workload}", axes[1])


def slo_attainment(record: Record) -> Figure | None:
    """Share of requests that kept the objectives: by rate where there are several, else as the objectives are loosened."""
    if record.slo == Slo() or not any(group.values("ttft_ms") for group in groups(record)):
        return None
    found = _by_rate(record)
    return _attainment_by_rate(record, found) if found else _attainment_by_scale(record)


def _attainment_by_rate(record: Record, found: Sequence[Group]) -> Figure:
    looks = Looks([arm.name for arm in record.arms])
    figure, axes = panels(1, width=1.5)
    ax = axes[0]
    for arm, line in _lines(record, found):
        _curve(ax, looks, arm, line, [group.median_of("slo_attainment") or 0.0 for group in line])
    ax.axhline(0.9, color="black", linewidth=0.7, linestyle=":")
    ax.set_ylim(0.0, 1.03)
    ax.set_xlabel("offered requests/s")
    ax.set_ylabel("share that kept the objectives")
    return finish(figure, origin_of(record), f"SLO attainment, {found[0].workload} ({_objectives(record)})", ax)


def _attainment_by_scale(record: Record) -> Figure:
    found = groups(record)
    looks, labels = Looks([arm.name for arm in record.arms]), few(loads_of(found))
    figure, axes = panels(len(labels))
    for ax, label in zip(axes, labels, strict=True):
        for group in (group for group in found if group.label == label):
            slos = [Slo(_times(record.slo_ttft_ms, scale), _times(record.slo_tpot_ms, scale)) for scale in _SCALES]
            shares = [sum(sample.meets(slo) for sample in group.measured) / len(group.measured) for slo in slos]
            ax.plot(_SCALES, shares, linestyle=looks.line(group.arm), color=looks.colour(group.arm), label=group.arm)
        ax.axvline(1.0, color="black", linewidth=0.7, linestyle=":")
        ax.set_xscale("log", base=2)
        ax.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        ax.set_ylim(0.0, 1.03)
        ax.set_title(label)
        ax.set_xlabel("objectives times")
        ax.set_ylabel("share that kept them")
    return finish(figure, origin_of(record), f"SLO attainment ({_objectives(record)} times the x axis)", axes[0])


def _curve(
    ax: Axes,
    looks: Looks,
    arm: str,
    line: Sequence[Group],
    values: Sequence[float],
    label: str = "",
    linestyle: str = "",
) -> None:
    rates = [group.rate for group in line if group.rate is not None]
    ax.plot(
        rates,
        values,
        linestyle=linestyle or looks.line(arm),
        color=looks.colour(arm),
        marker=looks.marker(arm),
        markersize=4,
        label=label or arm,
    )


def _by_rate(record: Record) -> list[Group]:
    """The workload with most rates, if it has at least two."""
    found = groups(record)
    workloads = sorted({group.workload for group in found}, key=lambda name: -len(rates_of(found, name)))
    if not workloads or len(rates_of(found, workloads[0])) < 2:
        return []
    return [group for group in found if group.workload == workloads[0]]


def _lines(record: Record, found: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    lines = [(arm.name, [group for group in found if group.arm == arm.name]) for arm in record.arms]
    return [(arm, line) for arm, line in lines if line]


def _objectives(record: Record) -> str:
    limits = (("TTFT", record.slo_ttft_ms), ("TPOT", record.slo_tpot_ms))
    return ", ".join(f"{name} {limit:g} ms" for name, limit in limits if limit is not None)


def _times(limit: float | None, scale: float) -> float | None:
    return None if limit is None else limit * scale
