"""The examples, as a reader runs them, made small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]


def run(*command: str) -> str:
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_collocated() -> None:
    output = run("examples/collocated.py", "--max-tokens", "8", "--device", "cpu")
    assert output.count("The capital of France is Paris.") == 2  # streamed alone, then among others
    assert output.count("of four") == 4 and "alone" in output


@pytest.mark.slow
def test_adaptive_cluster(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    small = ("--requests", "4", "--rate", "2", "--output-tokens", "4", "--profile-s", "1", "--device", "cpu")
    output = run("examples/adaptive_cluster.py", *small, "--ttft-ms", "60000", "--tpot-ms", "60000", "--out", str(out))
    assert "Held-out" in output and output.count("Written to") == 2  # the profile, the report
    report = json.loads(out.read_text())
    assert report["attainment"] == {"real": 1.0, "simulated": 1.0}
    assert sum(report["paths"]["real"].values()) == sum(report["paths"]["simulated"].values()) == 4
    assert len(report["decisions"]) == 4 and all(decision["reason"] for decision in report["decisions"])
    assert all(row["real"]["count"] == row["simulated"]["count"] == 4 for row in report["latency_ms"].values())
    assert report["environment"]["commit"] or report["environment"]["cpu"]
