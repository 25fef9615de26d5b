import pytest
from rich.console import Console
from support.bench_records import ARMS, make_cell, make_record

from nanopd.bench.arm import Arm
from nanopd.bench.compare import Difference, Side, compare
from nanopd.bench.compare_table import comparison_table
from nanopd.errors import ConfigError


def by_measure(a: Side, b: Side) -> dict[str, Difference]:
    return {one.measure: one for one in compare(a, b)}


def test_a_slower_engine_is_found_out() -> None:
    fast, slow = (Side(make_record(make_cell(slowness=factor, seed=seed))) for factor, seed in ((1.0, 1), (1.3, 2)))
    found = by_measure(fast, slow)
    assert found["TPOT p50"].is_real and found["TPOT p90"].is_real
    assert 20.0 < (found["TPOT p50"].percent or 0.0) < 40.0
    assert not found["completed"].is_real
    assert not found["output throughput"].is_real  # both finish all that comes


@pytest.mark.parametrize("seed", range(5))
def test_two_runs_of_one_engine_do_not_differ(seed: int) -> None:
    one, other = (Side(make_record(make_cell(seed=s))) for s in (seed, seed + 100))
    assert [difference.measure for difference in compare(one, other) if difference.is_real] == []


def test_drift_over_time_is_noise() -> None:
    """Half the stretches are slow in each run: between requests the difference looks certain, over time it does not."""
    quiet = [make_cell(slowness=1.0, seed=i, repeat=i) for i in range(4)]
    noisy = [make_cell(slowness=factor, seed=i, repeat=i) for i, factor in enumerate((0.7, 1.0, 1.6, 1.9))]
    found = by_measure(Side(make_record(*quiet)), Side(make_record(*noisy)))["TPOT p50"]
    assert found.low > 0.0
    assert not found.is_real


def test_dropping_requests_shows() -> None:
    keeps, drops = (Side(make_record(make_cell(num_requests=200, num_dropped=n))) for n in (0, 60))
    assert by_measure(keeps, drops)["completed"].b == pytest.approx(70.0)


def test_arms_of_one_record_are_compared_by_load() -> None:
    record = make_record(*(make_cell(arm.name, rate) for rate in (1.0, 2.0) for arm in ARMS))
    found = compare(Side(record, "collocated"), Side(record, "adaptive"))
    assert {one.load for one in found} == {"mixed, 1/s", "mixed, 2/s"}
    text = _printed(found)
    assert "differences are larger than the noise" in text


def test_what_cannot_be_compared_is_a_sentence() -> None:
    record = make_record(make_cell(rate=1.0))
    with pytest.raises(ConfigError, match="arm must be one of collocated, disaggregated, adaptive, got 'fast'"):
        Side(record, "fast")
    with pytest.raises(ConfigError, match="no load in common"):
        compare(Side(record), Side(make_record(make_cell(rate=2.0))))
    with pytest.raises(ConfigError, match="equal numbers of workers, got 2 and 4"):
        compare(Side(record), Side(make_record(make_cell(rate=1.0), arms=(Arm("collocated", 4),))))


def test_few_samples_say_nothing() -> None:
    few = Side(make_record(make_cell(num_requests=5)))
    assert {one.measure for one in compare(few, few)} == {"output throughput"}


def _printed(found: list[Difference]) -> str:
    console = Console(width=150, record=True, file=open("/dev/null", "w"))
    console.print(comparison_table(found, "A", "B"))
    return console.export_text()
