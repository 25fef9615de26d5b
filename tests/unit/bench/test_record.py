import json
from pathlib import Path

import msgspec
import pytest
from support.bench_records import make_cell, make_record, rate_record, static_record

from nanopd.bench.findings import cautions
from nanopd.bench.markdown import to_markdown
from nanopd.bench.record import check_free, read_record, write_partial, write_record
from nanopd.errors import ConfigError


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = rate_record()
    json_path, markdown_path = write_record(tmp_path / "new" / "run", record, to_markdown(record))
    assert read_record(json_path) == record
    assert markdown_path.read_text() == to_markdown(record)


def test_the_json_holds_the_figures_for_other_programs(tmp_path: Path) -> None:
    record = make_record(make_cell(num_requests=20))
    path, _markdown = write_record(tmp_path / "run.v2", record, "")
    assert path.name == "run.v2.json"
    cell = json.loads(path.read_text())["cells"][0]
    assert cell["stats"]["ttft"]["p99"] == pytest.approx(record.stats(record.cells[0]).ttft.p99, rel=1e-4)  # type: ignore[union-attr]
    assert len(cell["samples"]) == 20


@pytest.mark.parametrize("suffix", [".json", ".md"])
def test_nothing_is_overwritten(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"run{suffix}").write_text("precious")
    with pytest.raises(ConfigError, match="records are not overwritten"):
        check_free(tmp_path / "run")
    with pytest.raises(ConfigError, match="records are not overwritten"):
        write_record(tmp_path / "run", static_record(), "")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_partial_record_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.partial.json"
    for num_cells in (0, 1, 2):
        record = make_record(*(make_cell(rate=float(rate + 1), num_requests=3) for rate in range(num_cells)))
        write_partial(path, record)
        assert read_record(path) == record
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_record_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"kind": 3}')
    with pytest.raises(ConfigError, match="cannot read the record"):
        read_record(tmp_path / "other.json")
    write_partial(tmp_path / "old.json", msgspec.structs.replace(static_record(), format="nanopd-bench/0"))
    with pytest.raises(ConfigError, match="must be a nanopd-bench/1 record, got nanopd-bench/0"):
        read_record(tmp_path / "old.json")


def test_tables_have_a_row_for_each_cell_and_no_empty_columns() -> None:
    text = to_markdown(rate_record())
    assert text.count("| mixed, 3/s | adaptive |") == 3  # latency, throughput, phases
    assert "TTFT <= 800 ms, TPOT <= 60 ms" in text
    whole = make_cell(num_requests=20, rate=None)
    whole = msgspec.structs.replace(
        whole, samples=tuple(msgspec.structs.replace(s, token_ms=(), phases=None, path=None) for s in whole.samples)
    )
    text = to_markdown(make_record(whole, kind="offline"))
    assert "| load | arm | requests | dropped | E2E |" in text
    assert "Where the engine says" not in text


def test_arms_of_a_load_stand_together_whatever_the_order_of_running() -> None:
    cells = [make_cell(arm, rate, num_requests=5) for arm in ("collocated", "adaptive") for rate in (1.0, 2.0)]
    lines = [
        line.split(" | ")[:2] for line in to_markdown(make_record(*cells)).splitlines() if line.startswith("| mixed")
    ]
    assert lines[:4] == [
        ["| mixed, 1/s", "collocated"],
        ["| mixed, 1/s", "adaptive"],
        ["| mixed, 2/s", "collocated"],
        ["| mixed, 2/s", "adaptive"],
    ]


def test_cautions_name_a_busy_or_late_client() -> None:
    calm = make_cell(num_requests=10)
    assert cautions(make_record(calm)) == ()
    busy = msgspec.structs.replace(calm, client_utilisation=0.95)
    late = msgspec.structs.replace(
        calm, samples=tuple(msgspec.structs.replace(s, sent_s=s.scheduled_s + 0.2) for s in calm.samples)
    )
    failed = msgspec.structs.replace(calm, samples=(msgspec.structs.replace(calm.samples[0], error="queue full"),))
    short = msgspec.structs.replace(calm, samples=(msgspec.structs.replace(calm.samples[0], num_asked_tokens=999),))
    text = " ".join(cautions(make_record(busy, late, failed, short)))
    assert "1 of 22 answers are shorter than was asked" in text
    assert "95% of a core" in text
    assert "200 ms late" in text
    assert "queue full" in text
