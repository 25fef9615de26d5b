"""All figures of all files into one folder; none empty, none stale."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image  # matplotlib needs it too

from nanopd.bench.plots import bars, distributions, predictor, profile, rates
from nanopd.bench.plots.predictor import PredictorScores
from nanopd.bench.plots.routing import routing
from nanopd.bench.plots.sources import Source
from nanopd.bench.plots.style import SAVE_DPI, figure_style
from nanopd.bench.plots.transfer import transfer_rate
from nanopd.bench.record import Record
from nanopd.bench.transfer_record import TransferRecord
from nanopd.cost_model import HardwareProfile


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and what it needs."""

    draw: Callable[[Any], Figure | None]  # of the kind of source it stands under
    needs: str


RECORD_FIGURES = {
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
PROFILE_FIGURES = {
    "decode_scaling": Plot(profile.decode_scaling, "the measurements that nanopd profile keeps"),
    "interference": Plot(
        profile.interference, "two prompt lengths beside decodes, which a quick profile of a GPU has not"
    ),
    "latency_comparison": Plot(profile.latency_comparison, "room for a prompt of 256 tokens"),
}
TRANSFER_FIGURES = {"rate": Plot(transfer_rate, "measured sizes")}
PREDICTOR_FIGURES = {
    "calibration": Plot(predictor.calibration, "the predictor's PIT deciles"),
    "error": Plot(predictor.errors, "scored traces"),
}
FIGURES: dict[type, dict[str, Plot]] = {
    Record: RECORD_FIGURES,
    HardwareProfile: PROFILE_FIGURES,
    TransferRecord: TRANSFER_FIGURES,
    PredictorScores: PREDICTOR_FIGURES,
}


def draw_all(sources: Mapping[str, Source], folder: Path, suffix: str = "png") -> Iterator[str]:
    """Writes FOLDER/NAME_FIGURE.SUFFIX; yields a line for each figure, drawn or skipped. Figures of an earlier drawing are replaced or removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        for figure_name, plot in FIGURES[type(source)].items():
            path = folder / f"{name}_{figure_name}.{suffix}"
            path.unlink(missing_ok=True)
            with figure_style():
                figure = plot.draw(source)
                if figure is None:
                    yield f"skipped {path.name}: it needs {plot.needs}"
                else:
                    _save(figure, path)
                    yield f"drawn   {path}"


def _save(figure: Figure, path: Path) -> None:
    """PNGs with a palette: flat colours lose nothing by it and take a third of the bytes."""
    if path.suffix != ".png":
        figure.savefig(path)
        return
    pixels = BytesIO()
    figure.savefig(pixels, format="png")
    image = Image.open(pixels).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True, dpi=(SAVE_DPI, SAVE_DPI))
