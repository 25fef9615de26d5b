"""``nanopd bench kernels`` up to the measurement, which needs a GPU."""

from pathlib import Path

import msgspec
import pytest

from nanopd.cli import bench_device, main

TABLE = """
def measure():
    return [{"kernel": "norm", "shape": "1 x 8", "us": 2.0}]

def markdown(rows):
    return f"{len(rows)} kernel"
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("nanopd.runtime.devices.num_gpus", lambda: 1)
    monkeypatch.setattr(bench_device, "KERNEL_TABLE", tmp_path / "a_kernel_table.py")
    bench_device.KERNEL_TABLE.write_text(TABLE)
    return bench_device.KERNEL_TABLE


def test_rows_become_a_record(table: Path, tmp_path: Path) -> None:
    arguments = ["bench", "kernels", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert msgspec.json.decode((tmp_path / "run.json").read_bytes())["rows"][0]["us"] == 2.0
    assert "1 kernel" in (tmp_path / "run.md").read_text()
    assert main(arguments) == 2  # never overwritten


def test_outside_a_source_tree_it_says_so(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.unlink()
    assert main(["bench", "kernels"]) == 2
    assert "source tree" in capsys.readouterr().err


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nanopd.runtime.devices.num_gpus", lambda: 0)
    assert main(["bench", "kernels"]) == 2
    assert "this machine has none" in capsys.readouterr().err
