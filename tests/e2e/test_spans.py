"""``nanopd serve --otlp-endpoint``: a real request's way through a prefill and a decode worker, as its spans tell it."""

from pathlib import Path

import httpx
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from support.otlp_collector import OtlpCollector
from support.server_process import ServerProcess
from support.tiny_models import dummy_folder

pytestmark = pytest.mark.e2e


def test_a_handed_off_request_is_told_by_its_spans(tmp_path: Path) -> None:
    model = dummy_folder(tmp_path, vocab_size=64)
    options = ("--model", model, "--load-format", "dummy", "--num-blocks", "64", "--num-threads", "1")
    with OtlpCollector() as collector:
        where = ("--workers", "1P+1D", "--strategy", "disaggregated", "--otlp-endpoint", collector.url)
        with ServerProcess(*where, *options) as server:
            body = {"prompt": [1, 2, 3, 4, 5], "max_tokens": 6, "ignore_eos": True, "seed": 7}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60, trust_env=False)
            assert answer.status_code == 200
        spans = collector.spans()  # the server has ended, and sent what it held
    root = spans.pop(next(name for name in spans if name.startswith("text_completion ")))
    assert set(spans) == {"queue", "prefill", "transfer", "decode"}
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano for span in spans.values())
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in spans.values())
    attributes = {one.key: one.value for one in root.attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value == 6
    assert attributes["gen_ai.request.seed"].int_value == 7
    assert attributes["nanopd.path"].string_value == "disaggregated"
