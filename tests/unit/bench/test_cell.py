import pytest
from support.bench_records import make_cell, make_sample

from nanopd.bench.cell import Cell, CellStats
from nanopd.bench.sample import Outcome, Sample
from nanopd.request import Slo


def cell(*samples: Sample, start: float = 10.0, end: float = 20.0, rate: float | None = 1.0) -> Cell:
    return Cell("a", "short", start, end, 25.0, 0.3, samples, rate, None if rate is not None else 4)


def test_only_requests_due_in_the_window_are_measured_but_all_its_tokens_count() -> None:
    warm_up = make_sample(0, 9.0, (500.0, 1500.0, 2500.0))  # tokens at 9.5, 10.5, 11.5
    counted = make_sample(1, 19.0, (500.0, 900.0, 1500.0))  # at 19.5, 19.9, 20.5: the last after the window
    stats = CellStats.of(cell(warm_up, counted), Slo(), 2)
    assert stats.num_requests == 1
    assert stats.output_tokens_per_s == 0.4
    assert stats.output_tokens_per_s_per_worker == 0.2
    assert stats.completed_per_s == 0.1  # the warm-up request ended in it, the other after it
    assert stats.total_tokens_per_s == pytest.approx(0.4 + 64 / 10)
    assert stats.ttft is not None and stats.ttft.p50 == 500.0
    assert stats.tpot is not None and stats.tpot.p50 == 500.0
    assert stats.e2e is not None and stats.e2e.max == 1500.0


def test_drops_are_counted_by_kind_and_keep_no_objective() -> None:
    kinds = [Outcome.REFUSED, Outcome.FAILED, Outcome.UNFINISHED, Outcome.UNFINISHED]
    dropped = [make_sample(index, 12.0, (10.0,), kind) for index, kind in enumerate(kinds)]
    good, slow = make_sample(7, 12.0, (40.0, 50.0)), make_sample(8, 12.0, (90.0, 95.0))
    stats = CellStats.of(cell(good, slow, *dropped), Slo(60.0, 20.0), 2)
    assert (stats.num_completed, stats.num_dropped) == (2, 4)
    assert stats.dropped == {"refused": 1, "failed": 1, "unfinished": 2}
    assert stats.slo_attainment == 1 / 6
    assert stats.goodput_per_worker == 1 / 10 / 2
    assert stats.ttft is not None and stats.ttft.count == 2


def test_a_requests_own_objectives_hold_where_the_run_has_none() -> None:
    own = Sample(0, 11.0, 11.0, 8, Outcome.COMPLETED, 1, (40.0,), 40.0, ttft_slo_ms=30.0)
    assert CellStats.of(cell(own), Slo(), 1).slo_attainment == 0.0
    assert CellStats.of(cell(own), Slo(60.0), 1).slo_attainment == 1.0
    assert CellStats.of(cell(make_sample(0, 11.0)), Slo(), 1).slo_attainment is None


def test_lateness_is_the_clients_own() -> None:
    late = Sample(0, 11.0, 11.25, 8, Outcome.COMPLETED, 1, (300.0,), 300.0)
    assert CellStats.of(cell(late), Slo(), 1).send_late_p99_ms == 250.0
    assert CellStats.of(cell(late, rate=None), Slo(), 1).send_late_p99_ms is None


def test_whole_answers_count_at_their_end() -> None:
    whole = [Sample(index, 11.0, 11.0, 8, Outcome.COMPLETED, 50, (), ms) for index, ms in enumerate((2000.0, 20_000.0))]
    stats = CellStats.of(cell(*whole), Slo(), 1)
    assert stats.output_tokens_per_s == 5.0
    assert stats.ttft is None and stats.itl is None
    assert CellStats.of(cell(*whole), Slo(60.0), 1).slo_attainment is None
    assert stats.e2e is not None and stats.e2e.max == 20_000.0


def test_phases_and_paths_come_from_the_reports() -> None:
    stats = CellStats.of(make_cell("adaptive"), Slo(), 2)
    assert sum(stats.paths.values()) == stats.num_completed == 60
    assert set(stats.paths) == {"collocated", "disaggregated"}
    assert stats.phases["prefill_ms"] is not None
