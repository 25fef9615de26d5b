from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from matplotlib.axes import Axes
from support.bench_records import ENVIRONMENT, make_cell, make_record, rate_record, static_record

from nanopd.bench.plots import FIGURES, RECORD_FIGURES, draw_all, read_source
from nanopd.bench.plots.draw import PROFILE_FIGURES
from nanopd.bench.plots.pool import few, groups
from nanopd.bench.plots.predictor import PredictorScores
from nanopd.bench.record import Record, write_record
from nanopd.bench.transfer_record import TransferRecord, points_of
from nanopd.cost_model import HardwareProfile, bundled
from nanopd.cost_model.measurements import DecodePoint, InterferencePoint, Measurements, Spread
from nanopd.errors import ConfigError

BY_RATE = {"latency_by_rate", "throughput_by_rate", "completed_dropped"}


def has_data(ax: Axes) -> bool:
    drawn = [*ax.lines, *ax.collections, *ax.images]
    return bool(drawn) or any(patch.get_height() for patch in ax.patches)


def measured_profile() -> HardwareProfile:
    """The bundled profile of a CPU, with invented points."""
    profile = bundled("cpu_smollm2")
    decode = tuple(
        DecodePoint(batch, context, Spread(ms, 0.9 * ms, 1.2 * ms), ms, 0.5 * ms)
        for context in (64, 512)
        for batch in (1, 4, 16)
        for ms in (20.0 + batch + context / 50,)
    )
    beside = tuple(
        InterferencePoint(tokens, 8, 512, 30.0, Spread(30.0 + tokens, 29.0, 40.0 + tokens), 31.0 + tokens, 0.1 * tokens)
        for tokens in (16, 64, 256)
    )
    points = Measurements(read_bandwidth_gb_s=10.0, weight_bytes=1 << 28, decode=decode, interference=beside)
    return msgspec.structs.replace(profile, measurements=points)


def transfer_record() -> TransferRecord:
    points = points_of({n: (0.1 * n, 0.2 * n) for n in (1, 2, 4)}, block_bytes=1000)
    series = {"shared_memory": points, "plain copy": points}
    return TransferRecord(ENVIRONMENT, "tiny", 16, ("cpu", "cpu"), 0, series)


def scores() -> PredictorScores:
    trace = {rival: {"mae": 10.0, "coverage_90": 0.9} for rival in ("ours", "bucketed_mean", "sliding_mean")}
    return PredictorScores("2026-01-02", "abc", {"drifting": {**trace, "pit_deciles": [0.1] * 10}})


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        (rate_record(), set()),
        (static_record(), BY_RATE),
        (measured_profile(), set()),
        (transfer_record(), set()),
        (scores(), set()),
    ],
    ids=["poisson", "static", "profile", "transfer", "predictor"],
)
def test_every_figure_has_data_and_labels_or_is_left_out(source: Any, missing: set[str]) -> None:
    figures = {name: plot.draw(source) for name, plot in FIGURES[type(source)].items()}
    assert {name for name, figure in figures.items() if figure is None} == missing
    for name, figure in figures.items():
        for ax in figure.axes if figure is not None else ():
            if ax.get_label() == "<colorbar>":
                continue
            assert has_data(ax), name
            assert ax.get_ylabel() or name == "routing", name
            assert ax.get_xlabel() or ax.get_xticklabels(), name


def test_a_profile_without_measurements_is_not_drawn_from_guesses() -> None:
    bare = msgspec.structs.replace(measured_profile(), measurements=None)
    assert {name for name, plot in PROFILE_FIGURES.items() if plot.draw(bare) is None} == {
        "decode_scaling",
        "interference",
    }


def test_files_are_told_apart(tmp_path: Path) -> None:
    write_record(tmp_path / "run", rate_record(), "")
    measured_profile().save(tmp_path / "profile.json")
    (tmp_path / "scores.json").write_bytes(msgspec.json.encode(scores()))
    (tmp_path / "other.json").write_text("{}")
    assert [type(read_source(tmp_path / f"{name}.json")) for name in ("run", "profile", "scores")] == [
        Record,
        HardwareProfile,
        PredictorScores,
    ]
    for name in ("other", "missing"):
        with pytest.raises(ConfigError):
            read_source(tmp_path / f"{name}.json")


def test_legends_are_as_wide_as_the_figure_at_most() -> None:
    for name, figure in ((name, plot.draw(measured_profile())) for name, plot in PROFILE_FIGURES.items()):
        assert figure is not None
        figure.draw_without_rendering()
        (legend,) = figure.legends
        extent = legend.get_window_extent()
        assert extent.x0 >= 0.0 and extent.x1 <= figure.bbox.x1, name


def test_arms_look_different_in_grey_print_too() -> None:
    figure = RECORD_FIGURES["slo_attainment"].draw(rate_record())
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]  # type: ignore[arg-type]
    assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == 3


def test_curves_of_an_arm_that_drops_end_below_one() -> None:
    record = make_record(make_cell("collocated", num_requests=40, num_dropped=10))
    figure = RECORD_FIGURES["cdf_ttft"].draw(record)
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
    assert len(lines) == len(RECORD_FIGURES)


def test_repeats_are_pooled() -> None:
    record = make_record(*(make_cell(num_requests=10, repeat=repeat) for repeat in range(3)))
    (group,) = groups(record)
    assert len(group.completed) == 30
    assert len(group.stats) == 3


def test_few_keeps_the_ends() -> None:
    assert few(list("abcdefghij")) == ["a", "d", "g", "j"]
    assert few(["a", "b"]) == ["a", "b"]
