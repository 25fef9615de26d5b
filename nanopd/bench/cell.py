"""One arm under one load: its samples, and what they come to."""

from collections.abc import Iterable

import msgspec

from nanopd.bench.sample import Outcome, Sample
from nanopd.metrics import Summary
from nanopd.request import Slo


class Cell(msgspec.Struct, frozen=True, omit_defaults=True):
    """A measurement. Counted are the requests that were due in the window, and the tokens that came in it. Seconds after the load's start."""

    arm: str
    workload: str
    window_start_s: float
    window_end_s: float  # closed loop: when the last answer came
    elapsed_s: float  # until the last request ended, or was dropped
    client_utilisation: float  # CPU seconds of the load generator per second
    samples: tuple[Sample, ...]  # warm-up included
    rate: float | None = None  # requests per second (open loop)
    concurrency: int | None = None  # (closed loop)
    repeat: int = 0
    energy_j: float | None = None  # of the arm's GPUs over elapsed_s

    @property
    def key(self) -> tuple[str, float | None, int | None]:
        """The load, without the arm."""
        return self.workload, self.rate, self.concurrency

    @property
    def load_label(self) -> str:
        return self.workload + (f", {self.rate:g}/s" if self.rate is not None else f", {self.concurrency} at a time")

    @property
    def window_s(self) -> float:
        return self.window_end_s - self.window_start_s

    @property
    def measured(self) -> list[Sample]:
        return [sample for sample in self.samples if self.window_start_s <= sample.scheduled_s <= self.window_end_s]

    def token_times_s(self) -> list[float]:
        """When tokens came, of all requests. Without streaming a request's tokens count at its end."""
        times: list[float] = []
        for sample in self.samples:
            if sample.token_ms:
                times += [sample.scheduled_s + ms / 1e3 for ms in sample.token_ms]
            elif sample.e2e_ms is not None:
                times += [sample.scheduled_s + sample.e2e_ms / 1e3] * sample.num_output_tokens
        return times


class CellStats(msgspec.Struct, frozen=True):
    """The figures of a cell. Latencies in milliseconds, of completed requests; rates per second."""

    num_requests: int
    num_completed: int
    num_dropped: int  # refused, failed or unfinished
    dropped: dict[str, int]  # by outcome
    ttft: Summary | None
    tpot: Summary | None
    itl: Summary | None
    e2e: Summary | None
    output_tokens_per_s: float
    output_tokens_per_s_per_worker: float
    total_tokens_per_s: float  # prompt tokens of requests completed in the window included
    completed_per_s: float  # requests that ended in the window
    slo_attainment: float | None  # of all measured requests; a dropped one kept nothing
    goodput_per_worker: float | None
    send_late_p99_ms: float | None  # open loop: how far the client fell behind
    client_utilisation: float
    phases: dict[str, Summary | None]
    paths: dict[str, int]
    joules_per_output_token: float | None = None  # of the whole cell, warm-up and drain included

    @classmethod
    def of(cls, cell: Cell, slo: Slo, num_workers: int) -> "CellStats":
        measured = cell.measured
        completed = [sample for sample in measured if sample.is_completed]
        ended_in_window = [
            sample
            for sample in cell.samples
            if sample.is_completed
            and sample.e2e_ms is not None
            and cell.window_start_s <= sample.scheduled_s + sample.e2e_ms / 1e3 <= cell.window_end_s
        ]
        num_tokens = sum(cell.window_start_s <= time <= cell.window_end_s for time in cell.token_times_s())
        num_total = num_tokens + sum(sample.num_prompt_tokens for sample in ended_in_window)
        has_slo = slo != Slo() or any(s.ttft_slo_ms is not None or s.tpot_slo_ms is not None for s in measured)
        is_streamed = (
            any(sample.token_ms for sample in measured) or not completed
        )  # whole answers tell nothing about objectives
        num_met = sum(sample.meets(slo) for sample in measured) if has_slo and is_streamed else None
        late = Summary.of(sample.late_ms for sample in measured) if cell.rate is not None else None
        return cls(
            num_requests=len(measured),
            num_completed=len(completed),
            num_dropped=len(measured) - len(completed),
            dropped={
                kind.value: sum(s.outcome is kind for s in measured)
                for kind in Outcome
                if kind is not Outcome.COMPLETED
            },
            ttft=Summary.of(sample.ttft_ms for sample in completed),
            tpot=Summary.of(sample.tpot_ms for sample in completed),
            itl=Summary.of(gap for sample in completed for gap in sample.itl_ms),
            e2e=Summary.of(sample.e2e_ms for sample in completed),
            output_tokens_per_s=num_tokens / cell.window_s,
            output_tokens_per_s_per_worker=num_tokens / cell.window_s / num_workers,
            total_tokens_per_s=num_total / cell.window_s,
            completed_per_s=len(ended_in_window) / cell.window_s,
            slo_attainment=None if num_met is None or not measured else num_met / len(measured),
            goodput_per_worker=None if num_met is None else num_met / cell.window_s / num_workers,
            send_late_p99_ms=None if late is None else late.p99,
            client_utilisation=cell.client_utilisation,
            phases=_phases(completed),
            paths=_paths(completed),
            joules_per_output_token=_joules_per_token(cell),
        )


def _joules_per_token(cell: Cell) -> float | None:
    num_tokens = sum(sample.num_output_tokens for sample in cell.samples)
    return cell.energy_j / num_tokens if cell.energy_j is not None and num_tokens else None


def _phases(samples: Iterable[Sample]) -> dict[str, Summary | None]:
    phases = [sample.phases for sample in samples if sample.phases is not None]
    if not phases:
        return {}
    return {name: Summary.of(getattr(one, name) for one in phases) for name in phases[0].__struct_fields__}


def _paths(samples: Iterable[Sample]) -> dict[str, int]:
    paths = [sample.path for sample in samples if sample.path is not None]
    return {path: paths.count(path) for path in sorted(set(paths))}
