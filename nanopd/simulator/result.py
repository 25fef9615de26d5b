"""What a simulation found: one record per request, and what they come to."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nanopd.cluster.events import FinishRequest
from nanopd.metrics import Summary
from nanopd.request import FinishReason, Request, Slo
from nanopd.router import Decision


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. Times in milliseconds, ``arrival_s`` in seconds of virtual time."""

    request_id: str
    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    tenant: str
    slo: Slo
    reason: FinishReason
    decision: Decision | None
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float
    queue_ms: float  # at the worker that prefilled
    num_cached_tokens: int
    transfer_ms: float
    transfer_exposed_ms: float
    transfer_bytes: int

    @classmethod
    def of(cls, finish: FinishRequest, request: Request, now: float) -> "RequestRecord":
        report = finish.report
        assert report is not None
        return cls(
            request.request_id,
            request.arrival_time,
            report.num_prompt_tokens,
            report.num_output_tokens,
            request.tenant,
            request.slo,
            finish.reason,
            report.decision,
            None if report.ttft_s is None else report.ttft_s * 1e3,
            None if report.tpot_s is None else report.tpot_s * 1e3,
            (now - request.arrival_time) * 1e3,
            report.prefill.queue_ms,
            report.prefill.num_cached_tokens,
            report.transfer_ms,
            report.transfer_exposed_ms,
            report.transfer_bytes,
        )

    @property
    def path(self) -> str:
        return self.decision.chosen.path if self.decision is not None else ""

    def meets(self, slo: Slo | None = None) -> bool:
        """Whether the request ended well and kept its objectives (or ``slo`` instead)."""
        slo = slo or self.slo
        if self.reason not in (FinishReason.STOP, FinishReason.LENGTH) or self.ttft_ms is None:
            return False
        ttft_ok = slo.ttft_ms is None or self.ttft_ms <= slo.ttft_ms
        return ttft_ok and (slo.tpot_ms is None or self.tpot_ms is None or self.tpot_ms <= slo.tpot_ms)


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """All requests, in order of their end."""

    records: tuple[RequestRecord, ...]
    num_workers: int
    arrival_span_s: float  # over which the requests came
    elapsed_s: float  # until the last one ended
    busy: dict[str, float]  # share of the elapsed time that each worker ran steps

    def goodput(self, slo: Slo | None = None) -> float:
        """Requests per second that kept their objectives (DistServe, OSDI '24), over the time in which they came; all workers together."""
        return sum(record.meets(slo) for record in self.records) / max(self.arrival_span_s, 1e-9)

    def attainment(self, slo: Slo | None = None) -> float:
        """Share of requests that kept their objectives."""
        return sum(record.meets(slo) for record in self.records) / len(self.records) if self.records else 0.0

    @property
    def num_refused(self) -> int:
        """Requests that were not served because no plan would have kept their objectives; they count as missed."""
        return sum(record.reason is FinishReason.REFUSED for record in self.records)

    def summaries(self) -> dict[str, Summary | None]:
        """Of TTFT, TPOT, E2E and the queue, milliseconds."""
        columns = ("ttft_ms", "tpot_ms", "e2e_ms", "queue_ms", "transfer_exposed_ms")
        return {name: Summary.of(getattr(record, name) for record in self.records) for name in columns}

    def paths(self) -> dict[str, int]:
        return dict(Counter(record.path for record in self.records))


def merge(results: Sequence[SimulationResult]) -> SimulationResult:
    """The same experiment under several seeds, as one."""
    first = results[0]
    return SimulationResult(
        tuple(record for result in results for record in result.records),
        first.num_workers,
        sum(result.arrival_span_s for result in results),
        sum(result.elapsed_s for result in results),
        first.busy,
    )
