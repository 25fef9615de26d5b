"""Figures of the goodput record: by load, and what adaptive leaves to those who know more."""

from collections.abc import Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Protocol

from benchmarks.simulation.cells import BASELINES

STATIC = ("collocated", "disaggregated")
_COLUMNS = 4


class Measured(Protocol):
    """A cell under one load, as the report gathers it."""

    name: str
    workers: int
    load: float

    @property
    def adaptive(self) -> str: ...

    def attainment(self, arm: str) -> float: ...

    def best(self, policies: Iterable[str]) -> str | None: ...


def plot_by_load(cells: Sequence[Measured], path: Path) -> None:
    """Share of requests within their objectives, by load; the best of each family of arms with hindsight."""
    picks = {
        "adaptive": ("adaptive",),
        "collocated": ("collocated",),
        "best disaggregated": ("disaggregated",),
        "best baseline": BASELINES,
        "oracle": ("oracle",),
    }
    lines = {
        kind: [[_share(c, c.best(policies)) for c in group] for group in _groups(cells)]
        for kind, policies in picks.items()
    }
    _draw(cells, lines, "within objectives, %", path)


def plot_regret(cells: Sequence[Measured], path: Path) -> None:
    """Points that adaptive keeps less than the best arm chosen with hindsight, and than an adaptive router that knows each answer's length."""
    lines: dict[str, list[list[float | None]]] = {"best static or baseline": [], "oracle of lengths": []}
    for group in _groups(cells):
        ours = [100 * c.attainment(c.adaptive) for c in group]
        for kind, policies in zip(lines, ((*STATIC, *BASELINES), ("oracle",)), strict=True):
            theirs = [_share(c, c.best(policies)) for c in group]
            lines[kind].append([None if t is None else t - o for t, o in zip(theirs, ours, strict=True)])
    _draw(cells, lines, "above adaptive, points", path)


def _share(cell: Measured, arm: str | None) -> float | None:
    return None if arm is None else 100 * cell.attainment(arm)


def _groups(cells: Sequence[Measured]) -> list[list[Measured]]:
    """Cells that differ in load only, in the order of the record."""
    groups: dict[tuple[int, str], list[Measured]] = {}
    for cell in cells:
        groups.setdefault((cell.workers, cell.name), []).append(cell)
    return [sorted(group, key=lambda c: c.load) for group in groups.values()]


def _draw(cells: Sequence[Measured], lines: dict[str, list[list[float | None]]], label: str, path: Path) -> None:
    """One panel a group; ``lines``: by kind, a value for each cell of each group (None: not measured)."""
    from matplotlib import pyplot

    from nanopd.bench.plots.style import Looks, figure_style

    groups = _groups(cells)
    looks, columns = Looks(tuple(lines)), min(_COLUMNS, len(groups))
    with figure_style():
        rows = ceil(len(groups) / columns)
        figure, axes = pyplot.subplots(rows, columns, figsize=(3.1 * columns, 2.6 * rows), squeeze=False, sharey=True)
        for axis in axes.flat[len(groups) :]:
            axis.set_visible(False)
        for number, (axis, group) in enumerate(zip(axes.flat, groups, strict=False)):
            for kind, values in lines.items():
                points = [(100 * c.load, v) for c, v in zip(group, values[number], strict=True) if v is not None]
                if points:
                    look = {"ls": looks.line(kind), "marker": looks.marker(kind), "color": looks.colour(kind), "ms": 4}
                    axis.plot(*zip(*points, strict=True), label=kind, **look)
            axis.set_title(f"{group[0].workers} workers, {group[0].name}", fontsize=8)
            axis.set_xlabel("load, % of capacity")
        for row in axes:
            row[0].set_ylabel(label)
        axes.flat[0].legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
