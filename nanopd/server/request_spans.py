"""OpenTelemetry spans of finished requests (``pip install 'nanopd[otel]'``): where each one's time went, beside the traces of whoever called.

::

    chat smollm2-135m-instruct          arrival .. end, attributes of the GenAI semantic conventions
    |-- queue                           arrival .. first step of the prompt
    |-- prefill                         .. first token
    |-- transfer                        the transport's time, up to the fence; it runs beside the prefill
    `-- decode                          first token (or fence) .. end

They are made from the request's report once it has ended, so serving pays nothing before, and nothing at all when there is no endpoint.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nanopd.cluster.events import FinishRequest, RequestReport
from nanopd.errors import ConfigError
from nanopd.request import FinishReason, Request

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from nanopd.runtime.controller import Controller


def export_spans(controller: "Controller", endpoint: str, model: str) -> "TracerProvider":
    """Sends every finished request's spans to an OTLP/HTTP endpoint such as http://127.0.0.1:4318; the caller shuts the provider down.

    Raises ConfigError if OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(f"--otlp-endpoint needs OpenTelemetry: pip install 'nanopd[otel]' ({error})") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "nanopd"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    controller.on_finish.append(RequestSpans(provider, model).on_finish)
    return provider


class RequestSpans:
    """A hook for ``Controller.on_finish``."""

    def __init__(self, provider: "TracerProvider", model: str, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._tracer = provider.get_tracer("nanopd")
        self._model = model
        self._clock_ns = clock_ns

    def on_finish(self, finish: FinishRequest, request: Request) -> None:
        from opentelemetry import trace

        report = finish.report
        if report is None:
            return
        ended = self._clock_ns()
        arrived = ended - _ns(report.e2e_s)
        operation = "chat" if finish.request_id.startswith("chatcmpl-") else "text_completion"
        root = self._tracer.start_span(
            f"{operation} {self._model}",
            kind=trace.SpanKind.SERVER,
            start_time=arrived,
            attributes={"gen_ai.operation.name": operation, **_attributes(finish, report, request, self._model)},
        )
        for seconds, state in report.timeline:
            root.add_event(state, timestamp=arrived + _ns(seconds))
        if finish.reason is FinishReason.ERROR:
            root.set_attribute("error.type", "request_failed")
            root.set_status(trace.StatusCode.ERROR, finish.error)
        context = trace.set_span_in_context(root)
        for name, begin_s, end_s, attributes in _phases(report):
            span = self._tracer.start_span(
                name, context=context, start_time=arrived + _ns(begin_s), attributes=attributes
            )
            span.end(arrived + _ns(end_s))
        root.end(ended)


def _phases(report: RequestReport) -> list[tuple[str, float, float, dict[str, Any]]]:
    """(name, begin, end, attributes), seconds after arrival."""
    if report.ttft_s is None:
        return [("queue", 0.0, report.e2e_s, {})]
    chosen, first = report.decision.chosen, report.ttft_s
    began = max(0.0, first - report.prefill.prefill_ms / 1e3)
    fence = min(report.e2e_s, first + report.transfer_exposed_ms / 1e3)
    spans: list[tuple[str, float, float, dict[str, Any]]] = [
        ("queue", 0.0, began, {"nanopd.worker": chosen.prefill_worker}),
        (
            "prefill",
            began,
            first,
            {"nanopd.worker": chosen.prefill_worker, "nanopd.cached_tokens": report.prefill.num_cached_tokens},
        ),
    ]
    if report.transfer_bytes:
        moved = {
            "nanopd.transport": report.transport,
            "nanopd.transfer_bytes": report.transfer_bytes,
            "nanopd.transfer_exposed_ms": report.transfer_exposed_ms,
        }
        spans.append(("transfer", max(0.0, fence - report.transfer_ms / 1e3), fence, moved))
    preemptions = report.prefill.num_preemptions + report.decode.num_preemptions
    decode = {"nanopd.worker": chosen.decode_worker, "nanopd.preemptions": preemptions}
    return [*spans, ("decode", max(first, fence), report.e2e_s, decode)]


def _attributes(finish: FinishRequest, report: RequestReport, request: Request, model: str) -> dict[str, Any]:
    sampling = request.sampling
    given = {
        "gen_ai.provider.name": "nanopd",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.seed": sampling.seed
        if (sampling.seed or 0) < 2**63
        else None,  # the protocol's integers are signed
        "gen_ai.request.stop_sequences": list(sampling.stop) or None,
        "gen_ai.response.id": finish.request_id,
        "gen_ai.response.model": model,
        "gen_ai.response.finish_reasons": [str(finish.reason)],
        "gen_ai.usage.input_tokens": report.num_prompt_tokens,
        "gen_ai.usage.output_tokens": report.num_output_tokens,
        "nanopd.path": report.decision.chosen.path,
        "nanopd.decision.reason": report.decision.reason,
        "nanopd.decision.policy": report.decision.policy,
        "nanopd.attempts": report.num_attempts,
        "nanopd.ttft_ms": None if report.ttft_s is None else report.ttft_s * 1e3,
        "nanopd.tpot_ms": None if report.tpot_s is None else report.tpot_s * 1e3,
    }
    return {name: value for name, value in given.items() if value is not None}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
