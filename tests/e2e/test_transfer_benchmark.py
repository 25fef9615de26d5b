"""benchmarks/transfer, every part made small: what ``benchmarks/two_gpus.sh`` runs on GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_models import dummy_folder

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]


def test_every_part_runs_on_a_cpu_and_is_written_down(tmp_path: Path) -> None:
    out = tmp_path / "record"
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.transfer", "--devices", "cpu,cpu", "--rounds", "3", "--out", str(out)),
            *("--model", dummy_folder(tmp_path / "model"), "--load-format", "dummy"),
            *("--pushes", "16,64", "--prompts", "32,96", "--chunks", "16,32"),
        ],
        check=True,
        timeout=300,
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        },
    )
    rows = json.loads(out.with_suffix(".json").read_text())["rows"]
    counts = {what: sum(row["what"] == what for row in rows) for what in ("rate", "overlap", "ttft")}
    assert counts == {"rate": 2, "overlap": 4, "ttft": 2}
    assert [row["is_exact"] for row in rows if "is_exact" in row] == [True, True]
    assert all(row["exposed_ms"] > 0 and row["prefill_ms"] > 0 for row in rows if row["what"] == "overlap")
    assert all(len(row["alone_ms"]) == 3 for row in rows if "alone_ms" in row)
    page = out.with_suffix(".md").read_text()
    assert page.count("| shared_memory |") == 2 + 4 and "2 equal" in page
