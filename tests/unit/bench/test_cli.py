from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bench_records import rate_record

from nanopd.bench import runner
from nanopd.bench.cell import Cell
from nanopd.bench.record import read_record, write_record
from nanopd.cli import main


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["static", "--arm", "a=--workers 1C", "--arm", "b=--workers 1P+1D"],
            "arms must have equal numbers of workers",
        ),
        (["static", "--arm", "a=--workers 1X"], "workers must look like 1C+1P+1D"),
        (["static", "--arm", "a=--wrkers 1C"], "nanopd serve: unrecognized arguments: --wrkers 1C"),
        (["static", "--arm", "a"], "an arm must look like NAME=OPTIONS or NAME=URL, got 'a'"),
        (["static", "--arm", "a=http://x --gpus 2"], "after an arm's URL only --devices N can follow"),
        (["static", "--arm", "a=--workers 1C", "--base-url", "http://x"], "give either --base-url or --arm, got both"),
        (["static", "--num-workers", "3"], "the three strategies need an even number of workers"),
        (["static", "--serve=--block-size 24"], "block_size must be a power of two, got 24"),
        (["static", "--workloads", "tall"], "workload must be one of"),
        (["poisson", "--rates", "1,fast"], "rates must be numbers separated by commas, got '1,fast'"),
        (["trace", "nowhere.jsonl"], "cannot read the trace"),
        (["compare", "nowhere.json", "nowhere.json"], "cannot read the record"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_starts(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = [] if argv[0] == "compare" else ["--out", str(tmp_path / "run")]
    assert main(["bench", *argv, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nanopd bench: {sentence}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_told_before_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.md").write_text("")
    assert main(["bench", "offline", "--out", str(tmp_path / "run")]) == 2
    assert "records are not overwritten" in capsys.readouterr().err


def test_plot_and_compare_work_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _markdown = write_record(tmp_path / "run", rate_record(), "")
    assert main(["bench", "plot", str(path), "--out", str(tmp_path / "figures"), "--format", "svg"]) == 0
    assert (tmp_path / "figures" / "run_latency_by_rate.svg").exists()
    assert main(["bench", "compare", f"{path}:collocated", f"{path}:adaptive"]) == 0
    assert "differs" in capsys.readouterr().out


def test_what_was_measured_before_an_interruption_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: Any) -> Iterator[Cell]:
        yield rate_record().cells[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert main(["bench", "static", "--out", str(tmp_path / "run")]) == 130
    record = read_record(tmp_path / "run.json")
    assert len(record.cells) == 1
    assert record.findings[0] == "Interrupted: 1 of 9 measurements were made."
    assert record.findings[0] in (tmp_path / "run.md").read_text()
