"""How figures look: Okabe and Ito's colours (distinct to colour-blind eyes and, with hatches and markers, in grey print), sizes for one page."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from nanopd.bench.record import Record

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 3)))
SAVE_DPI = 200  # sharp in print
PANEL_INCHES = (3.6, 2.9)

_SETTINGS: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "savefig.dpi": SAVE_DPI,
    "svg.hashsalt": "nanopd",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """For the time of drawing; nobody else's settings are touched."""
    with matplotlib.rc_context(_SETTINGS):
        yield


class Looks:
    """The same look for an arm in every figure."""

    def __init__(self, arms: Sequence[str]) -> None:
        self._index = {arm: index % len(_COLOURS) for index, arm in enumerate(arms)}

    def colour(self, arm: str) -> str:
        return _COLOURS[self._index[arm]]

    def marker(self, arm: str) -> str:
        return _MARKERS[self._index[arm]]

    def hatch(self, arm: str) -> str:
        return _HATCHES[self._index[arm]]

    def line(self, arm: str) -> Any:
        return _LINES[self._index[arm]]


PART_COLOURS = ("#999999", "#0072B2", "#D55E00", "#56B4E9")  # parts of a whole, not arms


_TITLE_INCHES, _LEGEND_INCHES, _ORIGIN_INCHES = 0.28, 0.24, 0.2


def panels(count: int, width: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A row of panels, two rows from four on."""
    columns = count if count < 4 else -(-count // 2)
    rows = -(-count // columns)
    bands = _TITLE_INCHES + _LEGEND_INCHES + _ORIGIN_INCHES
    size = (max(PANEL_INCHES[0] * width * columns, 5.4), PANEL_INCHES[1] * rows + bands)
    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    return figure, axes


def finish(figure: Figure, origin: str, title: str, legend_from: Axes | None = None) -> Figure:
    """Title and legend above the panels, where the numbers are from below: three bands of fixed height, so that none covers another."""
    height = figure.get_figheight()
    legend_inches = _LEGEND_INCHES if legend_from is not None else 0.0
    if legend_from is not None:
        handles, labels = legend_from.get_legend_handles_labels()
        columns = min(_legend_columns(labels, figure.get_figwidth()), 3 if len(labels) in (5, 6, 9) else 4)
        legend_inches *= -(-len(labels) // columns)
        anchor = (0.5, 1.0 - _TITLE_INCHES / height)
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=anchor, borderpad=0.2, ncols=columns)
    top, bottom = 1.0 - (_TITLE_INCHES + legend_inches) / height, _ORIGIN_INCHES / height
    figure.set_layout_engine("constrained", rect=(0.0, bottom, 1.0, top - bottom))
    figure.text(0.5, 1.0 - 0.06 / height, title, fontsize=10.5, fontweight="bold", ha="center", va="top")
    figure.text(0.5, 0.05 / height, origin, fontsize=6.5, color="#555555", ha="center", va="bottom")
    return figure


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many as fit beside each other: a character of 9 points is about 0.066 inches wide, a handle with its gaps 0.6."""
    return max(1, min(len(labels), int(width / (0.6 + 0.066 * max(map(len, labels), default=0)))))


def name_arms(axis: Axis, names: Sequence[str], panel_inches: float) -> None:
    """A tick for each arm; slanted where they would not fit beside each other (see ``_legend_columns`` for the width of a character)."""
    fits = len(names) * 0.072 * max(map(len, names)) < panel_inches - 0.7
    slant: Any = {} if fits else {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
    axis.set_ticks(range(len(names)), list(names), **slant)


def log_axis(axis: Axis) -> None:
    """Logarithmic, with plain numbers, also between the powers of ten where there are few of those."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
    low, high = axis.get_view_interval()
    axis.set_minor_formatter("{x:g}" if high < 30 * low else NullFormatter())


def origin_of(record: Record) -> str:
    """The line under a figure of a bench record."""
    environment = record.environment
    cpu = f"{environment.cpu}, {environment.num_cpus} CPUs"
    hardware = environment.gpus[0].split(",")[0] if environment.gpus else cpu
    workers = f"{record.num_workers} worker{'s' if record.num_workers > 1 else ''} in each arm"
    return f"{hardware}; {workers}; {environment.date[:10]}, commit {environment.commit or 'unknown'}"
