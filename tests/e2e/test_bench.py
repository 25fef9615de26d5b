"""``nanopd bench`` against a real server: a tiny model of random weights, so that the test is about the benchmark."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server_process import ServerProcess
from support.tiny_models import dummy_folder

from nanopd.bench.record import read_record
from nanopd.bench.sample import Outcome
from nanopd.cli import main

pytestmark = pytest.mark.e2e

VOCAB_SIZE = 64


@pytest.fixture(scope="module")
def serve_options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    model = dummy_folder(tmp_path_factory.mktemp("model"), vocab_size=VOCAB_SIZE)
    return ("--model", model, "--load-format", "dummy", "--num-blocks", "512", "--num-threads", "1")


@pytest.fixture(scope="module")
def server(serve_options: tuple[str, ...]) -> Iterator[ServerProcess]:
    with ServerProcess("--workers", "1P+1D", "--strategy", "adaptive", *serve_options) as server:
        yield server


def bench(kind: str, server: ServerProcess, out: Path, *options: str) -> int:
    scale = ("--prompt-scale", "0.05", "--output-tokens", "6", "--vocab-size", str(VOCAB_SIZE), "--num-warm-up", "1")
    return main(["bench", kind, *options, "--base-url", server.url, "--devices", "2", *scale, "--out", str(out)])


def test_static_counts_every_token(server: ServerProcess, tmp_path: Path) -> None:
    options = ("--workloads", "short,mixed", "--num-requests", "6", "--concurrency", "3")
    assert bench("static", server, tmp_path / "run", *options) == 0
    record = read_record(tmp_path / "run.json")
    assert [cell.workload for cell in record.cells] == ["short", "mixed"]
    for cell in record.cells:
        assert [sample.outcome for sample in cell.samples] == [Outcome.COMPLETED] * 6
        assert {len(sample.token_ms) for sample in cell.samples} == {6}
        assert all(sample.phases is not None and sample.path is not None for sample in cell.samples)
        assert 0.0 < cell.client_utilisation
    assert "## Latency" in (tmp_path / "run.md").read_text()


def test_poisson_and_trace_follow_their_schedule(server: ServerProcess, tmp_path: Path) -> None:
    window = ("--warmup-s", "0.5", "--window-s", "1.5", "--drain-s", "20", "--rates", "4", "--workloads", "short")
    assert bench("poisson", server, tmp_path / "poisson", *window) == 0
    (cell,) = read_record(tmp_path / "poisson.json").cells
    assert (cell.window_start_s, cell.window_end_s) == (0.5, 2.0)
    assert all(sample.sent_s >= sample.scheduled_s for sample in cell.samples)
    assert 0 < len(cell.measured) <= len(cell.samples)

    rows = [{"timestamp": 200 * index, "input_length": 40, "output_length": 3} for index in range(4)]
    (tmp_path / "day.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bench("trace", server, tmp_path / "trace", str(tmp_path / "day.jsonl")) == 0
    (cell,) = read_record(tmp_path / "trace.json").cells
    assert [round(sample.scheduled_s, 3) for sample in cell.samples] == [0.0, 0.2, 0.4, 0.6]


def test_a_sweep_goes_on_where_it_stopped(server: ServerProcess, tmp_path: Path) -> None:
    options = ("--workload", "short", "--start-rate", "4", "--max-rate", "8", "--warmup-s", "0", "--window-s", "1")
    options += ("--drain-s", "20", "--slo-ttft-ms", "60000")
    assert bench("sweep", server, tmp_path / "whole", *options) == 0
    whole = read_record(tmp_path / "whole.json")
    assert [cell.rate for cell in whole.cells] == [4.0, 8.0]
    assert whole.findings[0] == "engine: 8 requests/s is the highest measured rate that keeps the objectives"

    state = tmp_path / "cut.partial.json"
    state.write_bytes((tmp_path / "whole.json").read_bytes())
    assert bench("sweep", server, tmp_path / "cut", *options) == 0
    assert read_record(tmp_path / "cut.json").cells == whole.cells  # nothing was measured again
    assert not state.exists()

    state.write_bytes((tmp_path / "whole.json").read_bytes())
    assert bench("sweep", server, tmp_path / "cut2", *options) == 0  # its own name, its own state
    (tmp_path / "cut2.json").rename(tmp_path / "cut3.partial.json")
    assert bench("sweep", server, tmp_path / "cut3", *options, "--seed", "1") == 2  # another sweep's state


def test_an_engine_with_other_workers_than_said_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    options = ["--base-url", server.url, "--devices", "1", "--out", str(tmp_path / "run")]
    assert main(["bench", "static", *options]) == 2
    assert not (tmp_path / "run.json").exists()


def test_it_starts_its_own_engines(serve_options: tuple[str, ...], tmp_path: Path) -> None:
    common = f"--serve={' '.join(serve_options)}"
    options = "--num-requests 4 --concurrency 4 --workloads short --output-tokens 4 --prompt-scale 0.5".split()
    arguments = ["--arm", "one=--workers 1C", common, *options, "--vocab-size", str(VOCAB_SIZE)]
    assert main(["bench", "offline", *arguments, "--out", str(tmp_path / "run")]) == 0
    (cell,) = read_record(tmp_path / "run.json").cells
    assert [(sample.num_output_tokens, sample.token_ms) for sample in cell.samples] == [(4, ())] * 4
