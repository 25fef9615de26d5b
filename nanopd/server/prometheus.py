"""/metrics: histograms fed by the controller's hooks, gauges and totals read from its snapshot when Prometheus asks."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from nanopd.cluster.events import EmitTokens, FinishRequest
from nanopd.cluster.snapshot import ClusterSnapshot, WorkerSnapshot
from nanopd.cost_model import StepFit
from nanopd.request import Request

if TYPE_CHECKING:
    from nanopd.runtime.controller import Controller

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class ServerMetrics:
    """One registry of its own, so that several servers in a process do not meet."""

    def __init__(self, controller: "Controller") -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_SnapshotCollector(controller.snapshot))
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "From acceptance to the first token", _LONG_S, "path"
        )
        self._tpot = self._histogram(
            "time_per_output_token_seconds", "Mean per request, after its first token", _SHORT_S, "path"
        )
        self._itl = self._histogram("inter_token_latency_seconds", "Between consecutive tokens of a stream", _SHORT_S)
        self._e2e = self._histogram("e2e_request_latency_seconds", "From acceptance to the end", _LONG_S, "path")
        self._queue = self._histogram(
            "request_queue_seconds", "From a leg's arrival at its worker to its first step", _LONG_S, "stage"
        )
        self._prefill = self._histogram(
            "request_prefill_seconds", "From a leg's first step to its first token", _LONG_S, "path"
        )
        self._transfer = self._histogram(
            "kv_transfer_seconds", "Time the transport was busy with a hand-off", _LONG_S, "transport"
        )
        self._last_token: dict[str, float] = {}
        controller.on_tokens.append(self.on_tokens)
        controller.on_finish.append(self.on_finish)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def on_tokens(self, emitted: EmitTokens) -> None:
        now = time.monotonic()
        last = self._last_token.get(emitted.request_id)
        if last is not None:
            self._itl.observe(now - last)
        for _ in emitted.delta.token_ids[1:]:  # tokens that came together: the first waited, the others did not
            self._itl.observe(0.0)
        self._last_token[emitted.request_id] = now

    def on_finish(self, finish: FinishRequest, request: Request) -> None:
        self._last_token.pop(finish.request_id, None)
        report = finish.report
        if report is None or report.ttft_s is None:
            return
        path = report.decision.chosen.path
        self._ttft.labels(path).observe(report.ttft_s)
        self._e2e.labels(path).observe(report.e2e_s)
        if report.tpot_s is not None:
            self._tpot.labels(path).observe(report.tpot_s)
        self._queue.labels("prefill").observe(report.prefill.queue_ms / 1e3)
        self._prefill.labels(path).observe(report.prefill.prefill_ms / 1e3)
        if report.transfer_bytes:
            self._queue.labels("decode").observe(report.decode.queue_ms / 1e3)
            self._transfer.labels(report.transport).observe(report.transfer_ms / 1e3)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"nanopd_{name}", text, labels, buckets=buckets, registry=self._registry)


class _SnapshotCollector(Collector):
    """Reads the cluster at scrape time: nothing to keep in step."""

    def __init__(self, snapshot: Callable[[], ClusterSnapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        return []  # asking for the names must not need a running controller

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        yield from _totals(snapshot)
        yield GaugeMetricFamily("nanopd_requests_in_flight", "Accepted and not finished", value=len(snapshot.requests))
        if snapshot.fit is not None:
            for name, text, of_fit in _FIT_GAUGES:
                yield GaugeMetricFamily(f"nanopd_{name}", text, value=of_fit(snapshot.fit))
        for name, text, value in _WORKER_GAUGES:
            yield _per_worker(GaugeMetricFamily(f"nanopd_{name}", text, labels=("worker", "role")), snapshot, value)
        for name, text, value in _WORKER_COUNTERS:
            yield _per_worker(CounterMetricFamily(f"nanopd_{name}", text, labels=("worker", "role")), snapshot, value)


def _kv_use(worker: WorkerSnapshot) -> float:
    return 1.0 - worker.stats.num_free_blocks / worker.num_blocks if worker.num_blocks else 0.0


_WorkerValue = Callable[[WorkerSnapshot], float]
_WORKER_GAUGES: tuple[tuple[str, str, _WorkerValue], ...] = (
    ("worker_up", "1: the worker takes requests", lambda worker: float(worker.ready)),
    ("num_requests_running", "Sequences in the worker's running batch", lambda worker: worker.stats.num_running),
    ("num_requests_waiting", "Sequences waiting for their first step", lambda worker: worker.stats.num_waiting),
    ("num_requests_reserved", "Reservations whose KV has not arrived", lambda worker: worker.stats.num_reserved),
    ("num_waiting_tokens", "Prompt tokens not yet computed", lambda worker: worker.stats.num_waiting_tokens),
    ("kv_cache_usage_ratio", "Share of KV blocks owned by sequences", _kv_use),
    ("kv_blocks", "KV blocks of the worker", lambda worker: worker.num_blocks),
    ("step_seconds", "Moving median of the step time", lambda worker: worker.stats.step_ms / 1e3),
)
_FIT_GAUGES: tuple[tuple[str, str, Callable[[StepFit], float]], ...] = (
    ("step_model_error_ratio", "Mean error of the step times that the router foresaw, of late", lambda fit: fit.error),
    ("step_model_profile_error_ratio", "The same by the profile alone", lambda fit: fit.offline_error),
    ("step_model_profile_ratio", "Step times over those of the profile, of late", lambda fit: fit.ratio),
)
# Workers count from their start, so a restart looks like a reset, as Prometheus expects of counters.
_WORKER_COUNTERS: tuple[tuple[str, str, _WorkerValue], ...] = (
    ("worker_restarts", "Times the worker was started again", lambda worker: worker.incarnation),
    (
        "preemptions",
        "Sequences that lost their blocks and were computed again",
        lambda worker: worker.stats.num_preemptions,
    ),
    ("engine_steps", "Steps", lambda worker: worker.stats.num_steps),
    (
        "prefix_cache_hit_tokens",
        "Prompt tokens found in the prefix cache",
        lambda worker: worker.stats.prefix_hit_tokens,
    ),
    (
        "prefix_cache_query_tokens",
        "Prompt tokens looked up in the prefix cache",
        lambda worker: worker.stats.prefix_query_tokens,
    ),
    ("draft_tokens", "Tokens guessed ahead and verified", lambda worker: worker.stats.num_draft_tokens),
    ("accepted_draft_tokens", "Guesses that were right", lambda worker: worker.stats.num_accepted_tokens),
)


def _per_worker(
    family: GaugeMetricFamily | CounterMetricFamily, snapshot: ClusterSnapshot, value: _WorkerValue
) -> GaugeMetricFamily | CounterMetricFamily:
    for worker in snapshot.workers:
        family.add_metric((worker.worker_id, worker.role), value(worker))
    return family


def _totals(snapshot: ClusterSnapshot) -> Iterator[Metric]:
    counters = snapshot.counters
    for name, text, total in (
        ("requests_accepted", "Requests accepted", counters.requests),
        ("handoffs", "KV hand-offs from a prefill to a decode worker", counters.handoffs),
        ("transfer_bytes", "KV bytes moved between workers", counters.transfer_bytes),
        ("prompt_tokens", "Prompt tokens of finished requests", counters.prompt_tokens),
        ("output_tokens", "Tokens handed to clients", counters.output_tokens),
        ("worker_losses", "Worker processes that ended or were given up", counters.worker_losses),
        ("errors", "Requests that ended in an error", counters.finished.get("error", 0)),
    ):
        yield CounterMetricFamily(f"nanopd_{name}", text, value=total)
    for name, text, label, table in (
        ("decisions", "Plans by path, repeated attempts included", "path", counters.paths),
        ("requests_finished", "Requests by how they ended", "reason", counters.finished),
        ("fallbacks", "Attempts that were not as first planned", "cause", counters.fallbacks),
    ):
        family = CounterMetricFamily(f"nanopd_{name}", text, labels=(label,))
        for key, total in table.items():
            family.add_metric((key,), total)
        yield family
