import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench_records import make_cell, make_record

from nanopd.bench.cell import Cell, CellStats
from nanopd.bench.sweep import SweepPlan, keeps_up, sweep_arm
from nanopd.errors import ConfigError
from nanopd.request import Slo


def sweep(capacity: float, plan: SweepPlan, known: list[Cell] | None = None) -> tuple[float | None, list[float]]:
    """A sweep of an engine that keeps up to ``capacity``; the result and the rates it measured."""
    tried: list[float] = []

    def measure(rate: float) -> Cell:
        tried.append(rate)
        return make_cell("a", rate, num_requests=1)

    return sweep_arm(plan, known or [], measure, lambda cell: (cell.rate or 0.0) <= capacity), tried


def test_goes_up_until_one_fails_then_closer() -> None:
    best, tried = sweep(5.0, SweepPlan(1.0, 2.0, num_refinements=2))
    assert tried == [1.0, 2.0, 4.0, 8.0, 5.66, 4.76]
    assert best == 4.76


def test_goes_down_where_the_first_rate_is_too_high() -> None:
    best, tried = sweep(0.3, SweepPlan(1.0, 2.0, num_refinements=0))
    assert tried == [1.0, 0.5, 0.25]
    assert best == 0.25


def test_gives_up_and_stops_at_the_bounds() -> None:
    assert sweep(0.0, SweepPlan(1.0))[0] is None
    best, tried = sweep(0.0, SweepPlan(1.0, 2.0, min_rate=0.4))
    assert (best, tried) == (None, [1.0, 0.5])
    best, tried = sweep(1e9, SweepPlan(1.0, 10.0, max_rate=100.0))
    assert (best, tried) == (100.0, [1.0, 10.0, 100.0])


@given(st.floats(0.05, 500.0), st.floats(1.2, 4.0), st.integers(0, 4), st.data())
def test_a_resumed_sweep_measures_what_is_missing_and_finds_the_same(
    capacity: float, factor: float, num_refinements: int, data: st.DataObject
) -> None:
    plan = SweepPlan(0.5, factor, num_refinements=num_refinements)
    best, tried = sweep(capacity, plan)
    assert len(set(tried)) == len(tried)
    assert best is None or best <= capacity
    cut = data.draw(st.integers(0, len(tried)))
    known = [make_cell("a", rate, num_requests=1) for rate in tried[:cut]]
    assert sweep(capacity, plan, known) == (best, tried[cut:])


def test_keeping_up_is_by_objectives_or_by_dropping_nothing() -> None:
    good, dropping = make_cell(num_requests=60), make_cell(num_requests=60, num_dropped=1)
    assert [keeps_up(cell, stats(cell, Slo()), Slo(), 0.9) for cell in (good, dropping)] == [True, False]
    tight, loose = Slo(ttft_ms=1.0), Slo(ttft_ms=1e6)
    assert [keeps_up(good, stats(good, slo), slo, 0.9) for slo in (tight, loose)] == [False, True]
    assert keeps_up(dropping, stats(dropping, loose), loose, 0.9)
    assert not keeps_up(dropping, stats(dropping, loose), loose, 1.0)


def stats(cell: Cell, slo: Slo) -> CellStats:
    return make_record(cell, slo=(slo.ttft_ms, slo.tpot_ms)).stats(cell)


def test_falling_behind_without_dropping_is_not_keeping_up() -> None:
    slow = make_cell(slowness=300.0, num_requests=60)  # every answer takes minutes: none ends in the window
    assert not keeps_up(slow, stats(slow, Slo()), Slo(), 0.9)


def test_plans_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="factor > 1"):
        SweepPlan(factor=1.0)
