"""Records of transfer measurements."""

from pathlib import Path

import msgspec
import pytest
from support.bench_records import ENVIRONMENT

from nanopd.bench.plots import read_source
from nanopd.bench.transfer_record import TransferRecord, points_of, transfer_markdown, write_transfer
from nanopd.cli import main
from nanopd.errors import ConfigError


def record() -> TransferRecord:
    points = points_of({1: (1.0, 3.0, 2.0), 2: (2.0, 2.0, 2.0)}, block_bytes=1_000_000)
    series = {"shared_memory": points, "plain copy": points}
    return TransferRecord(ENVIRONMENT, "tiny", 16, ("cpu", "cpu"), 0, series)


def test_figures_are_medians() -> None:
    first, second = record().series["shared_memory"]
    assert (first.median_ms, first.gb_per_s) == (2.0, 0.5)
    assert second.gb_per_s == 1.0
    assert "| 2 | 32 | 2.00 | 2.000 | 1.00 | 2.000 | 1.00 |" in transfer_markdown(record())


def test_a_record_is_read_back_and_not_overwritten(tmp_path: Path) -> None:
    paths = write_transfer(tmp_path / "run", record())
    assert read_source(paths[0]) == record()
    with pytest.raises(ConfigError, match="not overwritten"):
        write_transfer(tmp_path / "run", record())


def test_the_command_writes_a_record(tmp_path: Path) -> None:
    options = ["--num-blocks", "8", "--num-rounds", "2", "--block-size", "4"]
    assert main(["bench", "transfer", *options, "--out", str(tmp_path / "run")]) == 0
    written = msgspec.json.decode((tmp_path / "run.json").read_bytes(), type=TransferRecord)
    assert [point.num_blocks for point in written.series["shared_memory"]] == [1, 2, 4]
    assert main(["bench", "transfer", "--devices", "cpu", "--out", str(tmp_path / "other")]) == 2
