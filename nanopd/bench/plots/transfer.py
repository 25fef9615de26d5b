"""Figures of a transfer measurement."""

from matplotlib.figure import Figure

from nanopd.bench.plots.style import Looks, finish, log_axis, panels
from nanopd.bench.transfer_record import TransferRecord


def transfer_rate(record: TransferRecord) -> Figure | None:
    """Milliseconds and GB/s by size; medians, with the span of all rounds."""
    if not any(record.series.values()):
        return None
    looks = Looks(list(record.series))
    figure, axes = panels(2, width=1.2)
    for name, points in record.series.items():
        tokens = [point.num_blocks * record.block_size for point in points]
        look = {
            "color": looks.colour(name),
            "linestyle": looks.line(name),
            "marker": looks.marker(name),
            "markersize": 4,
        }
        axes[0].plot(tokens, [point.median_ms for point in points], label=name, **look)
        axes[0].fill_between(
            tokens,
            [min(point.ms) for point in points],
            [max(point.ms) for point in points],
            color=looks.colour(name),
            alpha=0.15,
            linewidth=0,
        )
        axes[1].plot(tokens, [point.gb_per_s for point in points], label=name, **look)
    log_axis(axes[0].yaxis)
    axes[0].set_ylabel("milliseconds (log); band: all rounds")
    axes[1].set_ylim(bottom=0.0)
    axes[1].set_ylabel("GB/s")
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel(f"tokens of KV ({record.model}, bfloat16)")
    environment = record.environment
    hardware = environment.gpus[0].split(",")[0] if environment.gpus else environment.cpu
    origin = (
        f"{hardware}; {' to '.join(record.devices)}; {environment.date[:10]}, commit {environment.commit or 'unknown'}"
    )
    return finish(figure, origin, "KV transfer between two processes, scattered blocks", axes[0])
