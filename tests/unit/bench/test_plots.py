from pathlib import Path

import msgspec
import numpy as np
import pytest
from matplotlib.axes import Axes
from support.bench_records import make_cell, make_record, rate_record, static_record

from nanopd.bench.plots import FIGURES, draw_all
from nanopd.bench.plots.pool import few, groups
from nanopd.bench.record import Record

BY_RATE = {"latency_by_rate", "throughput_by_rate", "completed_dropped"}


def has_data(ax: Axes) -> bool:
    drawn = [*ax.lines, *ax.collections, *ax.images]
    return bool(drawn) or any(patch.get_height() for patch in ax.patches)


@pytest.mark.parametrize(("record", "missing"), [(rate_record(), set()), (static_record(), BY_RATE)])
def test_every_figure_has_data_and_labels_or_is_left_out(record: Record, missing: set[str]) -> None:
    figures = {name: plot.draw(record) for name, plot in FIGURES.items()}
    assert {name for name, figure in figures.items() if figure is None} == missing
    for name, figure in figures.items():
        for ax in figure.axes if figure is not None else ():
            if ax.get_label() == "<colorbar>":
                continue
            assert has_data(ax), name
            assert ax.get_ylabel() or name == "routing", name
            assert ax.get_xlabel() or ax.get_xticklabels(), name


def test_arms_look_different_in_grey_print_too() -> None:
    figure = FIGURES["slo_attainment"].draw(rate_record())
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]  # type: ignore[arg-type]
    assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == 3


def test_curves_of_an_arm_that_drops_end_below_one() -> None:
    record = make_record(make_cell("collocated", num_requests=40, num_dropped=10))
    figure = FIGURES["cdf_ttft"].draw(record)
    assert figure is not None
    assert max(np.asarray(figure.axes[0].lines[0].get_ydata())) == 0.75


def test_drawing_leaves_nothing_stale(tmp_path: Path) -> None:
    stale, foreign = tmp_path / "run_phases.png", tmp_path / "other_phases.png"
    stale.write_bytes(b"old")
    foreign.write_bytes(b"not ours")
    cell = make_cell(num_requests=10)
    bare = msgspec.structs.replace(
        cell, samples=tuple(msgspec.structs.replace(s, phases=None, path=None) for s in cell.samples)
    )
    lines = list(draw_all({"run": make_record(bare)}, tmp_path))
    assert "skipped run_phases.png: it needs the engine's debug reports" in lines
    assert not stale.exists()
    assert foreign.read_bytes() == b"not ours"
    assert (tmp_path / "run_latency.png").read_bytes().startswith(b"\x89PNG")
    assert len(lines) == len(FIGURES)


def test_repeats_are_pooled() -> None:
    record = make_record(*(make_cell(num_requests=10, repeat=repeat) for repeat in range(3)))
    (group,) = groups(record)
    assert len(group.completed) == 30
    assert len(group.stats) == 3


def test_few_keeps_the_ends() -> None:
    assert few(list("abcdefghij")) == ["a", "d", "g", "j"]
    assert few(["a", "b"]) == ["a", "b"]
