"""Spans of finished requests, into OpenTelemetry's own in-memory exporter."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.otlp_collector import OtlpCollector

from nanopd.cluster.events import FinishRequest, RequestReport
from nanopd.errors import ConfigError
from nanopd.messages import LegTimes
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.router.plan import Candidate, Decision
from nanopd.server.request_spans import RequestSpans, export_spans

END_NS = 100_000_000_000
DISAGGREGATED = Decision(Candidate("prefill-0", "decode-0"), "the prompt is long", "adaptive")
LOCAL = Decision(Candidate("collocated-0", "collocated-0"), "least work", "adaptive")
REQUEST = Request("chatcmpl-1", (1, 2, 3), SamplingParams(max_tokens=8, temperature=0.5, seed=2**63 + 1, stop=("x",)))


def report(decision: Decision, **fields: object) -> RequestReport:
    given = {"ttft_s": 2.0, "e2e_s": 5.0, "tpot_s": 0.4, "prefill": LegTimes(prefill_ms=1500.0, num_cached_tokens=2)}
    timeline = ((0.1, "reserving"), (0.5, "prefilling"), (2.5, "decoding"))
    return RequestReport(decision, 3, 8, 1, **{**given, "timeline": timeline, **fields})  # type: ignore[arg-type]


def spans_of(finish: FinishRequest) -> dict[str, ReadableSpan]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    RequestSpans(provider, "tiny", lambda: END_NS).on_finish(finish, REQUEST)
    return {span.name: span for span in exporter.get_finished_spans()}


def seconds(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None and span.end_time is not None
    arrived = END_NS - 5_000_000_000
    return (span.start_time - arrived) / 1e9, (span.end_time - arrived) / 1e9


def test_a_handed_off_request() -> None:
    moved = {"transfer_ms": 800.0, "transfer_exposed_ms": 500.0, "transfer_bytes": 64, "transport": "shared_memory"}
    spans = spans_of(FinishRequest("chatcmpl-1", FinishReason.LENGTH, report(DISAGGREGATED, **moved)))
    root = spans.pop("chat tiny")
    assert {name: seconds(span) for name, span in spans.items()} == {
        "queue": (0.0, 0.5),
        "prefill": (0.5, 2.0),
        "transfer": (1.7, 2.5),  # ends with the fence, began beside the prefill
        "decode": (2.5, 5.0),
    }
    assert all(span.parent is not None and span.parent.span_id == root.context.span_id for span in spans.values())
    assert seconds(root) == (0.0, 5.0)
    assert [event.name for event in root.events] == ["reserving", "prefilling", "decoding"]
    attributes = dict(root.attributes or {})
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "tiny"
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (3, 8)
    assert attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert attributes["nanopd.path"] == "disaggregated"
    assert "gen_ai.request.seed" not in attributes  # it does not fit the protocol
    assert dict(spans["prefill"].attributes or {})["nanopd.worker"] == "prefill-0"
    assert dict(spans["decode"].attributes or {})["nanopd.worker"] == "decode-0"


def test_a_local_request_has_no_transfer() -> None:
    spans = spans_of(FinishRequest("cmpl-1", FinishReason.STOP, report(LOCAL)))
    assert set(spans) == {"text_completion tiny", "queue", "prefill", "decode"}
    assert seconds(spans["decode"]) == (2.0, 5.0)


def test_an_error_before_the_first_token() -> None:
    failed = report(DISAGGREGATED, ttft_s=None, tpot_s=None)
    spans = spans_of(FinishRequest("cmpl-1", FinishReason.ERROR, failed, "no worker is left"))
    root = spans.pop("text_completion tiny")
    assert {name: seconds(span) for name, span in spans.items()} == {"queue": (0.0, 5.0)}
    assert root.status.status_code is StatusCode.ERROR
    assert root.status.description == "no worker is left"


def test_the_server_imports_no_opentelemetry_of_its_own() -> None:
    code = "import sys, nanopd.server.serve, nanopd.server.request_spans; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_spans_reach_an_otlp_endpoint() -> None:
    controller = SimpleNamespace(on_finish=[])
    with OtlpCollector() as collector:
        provider = export_spans(controller, collector.url, "tiny")  # type: ignore[arg-type]
        (hook,) = controller.on_finish
        hook(FinishRequest("chatcmpl-1", FinishReason.LENGTH, report(LOCAL)), REQUEST)
        provider.shutdown()  # sends what it holds
    ((path, request),) = collector.requests
    assert path == "/v1/traces"
    (resource,) = request.resource_spans
    assert ("service.name", "nanopd") in [(one.key, one.value.string_value) for one in resource.resource.attributes]
    assert set(collector.spans()) == {"chat tiny", "queue", "prefill", "decode"}


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="pip install"):
        export_spans(SimpleNamespace(on_finish=[]), "http://127.0.0.1:1", "tiny")  # type: ignore[arg-type]
