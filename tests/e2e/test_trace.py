"""`nanopd trace` with three workers on the embedded model."""

import json
from pathlib import Path

import pytest
from support.traces import check_trace

from nanopd.cli import main

pytestmark = pytest.mark.e2e


def test_a_disaggregated_run_leaves_a_whole_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "trace.json"
    options = "--workers 1P+1D --strategy disaggregated --requests 3 --input-len 40 --output-len 4 --num-blocks 64"
    assert main(["trace", "--out", str(out), *options.split(), "--dtype", "float32", "--num-threads", "1"]) == 0
    said = capsys.readouterr().err
    assert "prefill-0" in said and "decode-0" in said and "device idle" in said
    events = check_trace(json.loads(out.read_text()))
    spans = [event for event in events if event["ph"] == "X"]
    assert {"reserve", "prefill", "hand-off", "decode", "schedule", "submit", "wait", "apply"} <= {
        e["name"] for e in spans
    }
    assert sum(event["ph"] == "f" for event in events) == 3  # an arrow a request
    assert sum(event["ph"] == "b" for event in events) >= 3  # a push a request at least
    prompts = [event["args"]["prefill tokens"] for event in spans if "prefill tokens" in event["args"]]
    assert sum(prompts) == 3 * 40
