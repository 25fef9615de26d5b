"""All figures of all records into one folder; none empty, none stale."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from nanopd.bench.plots import bars, distributions, rates
from nanopd.bench.plots.routing import routing
from nanopd.bench.plots.style import figure_style
from nanopd.bench.record import Record


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and what it needs."""

    draw: Callable[[Record], Figure | None]
    needs: str


FIGURES = {
    "latency": Plot(bars.latency_bars, "completed requests"),
    "ttft": Plot(bars.ttft_bars, "streamed answers"),
    "throughput": Plot(bars.throughput_bars, "tokens in the window"),
    "violins": Plot(distributions.violins, "three different latencies in a cell"),
    "scatter": Plot(distributions.scatter, "completed requests"),
    "cdf_ttft": Plot(distributions.cdf_ttft, "streamed answers"),
    "cdf_tpot": Plot(distributions.cdf_tpot, "streamed answers of two tokens or more"),
    "latency_by_rate": Plot(rates.latency_by_rate, "two rates of one workload"),
    "throughput_by_rate": Plot(rates.throughput_by_rate, "two rates of one workload"),
    "completed_dropped": Plot(bars.completed_dropped, "open-loop load"),
    "slo_attainment": Plot(rates.slo_attainment, "objectives (--slo-ttft-ms, --slo-tpot-ms) and streamed answers"),
    "phases": Plot(bars.phases, "the engine's debug reports"),
    "routing": Plot(routing, "an arm that sent requests both ways"),
}


def draw_all(records: Mapping[str, Record], folder: Path, suffix: str = "png") -> Iterator[str]:
    """Writes FOLDER/NAME_FIGURE.SUFFIX; yields a line for each figure, drawn or skipped. Figures of an earlier drawing are replaced or removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        for figure_name, plot in FIGURES.items():
            path = folder / f"{name}_{figure_name}.{suffix}"
            path.unlink(missing_ok=True)
            with figure_style():
                figure = plot.draw(record)
                if figure is None:
                    yield f"skipped {path.name}: it needs {plot.needs}"
                else:
                    figure.savefig(path)
                    yield f"drawn   {path}"
