"""Logs as a trace in Chrome's JSON format, for https://ui.perfetto.dev and chrome://tracing.

One process for the requests, one for each life of a worker with the lanes host, device and KV pushes. An arrow follows each request from its
arrival through its first step on every worker to its last step.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nanopd.tracing.device_time import DeviceSpan, device_spans
from nanopd.tracing.logs import TracedRequest, WorkerLog

Event = dict[str, Any]

_REQUESTS_PID = 1
_HOST, _DEVICE = 1, 2


def chrome_trace(workers: Sequence[WorkerLog], requests: Sequence[TracedRequest]) -> dict[str, Any]:
    """The whole trace; ``json.dumps`` of it is a file a viewer opens. Times are microseconds since the first event."""
    began = [step.began for log in workers for step in log.steps] + [request.began for request in requests]
    clock = _Clock(min(began, default=0.0))
    spans = {pid: device_spans(log.steps) for pid, log in enumerate(workers, start=_REQUESTS_PID + 1)}
    lanes = request_lanes(requests)
    events = list(_request_events(requests, lanes, clock))
    for pid, log in enumerate(workers, start=_REQUESTS_PID + 1):
        events += _worker_events(pid, log, spans[pid], clock)
    events += _arrows(requests, lanes, spans, clock)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


class _Clock:
    def __init__(self, zero: float) -> None:
        self._zero = zero

    def us(self, when: float) -> float:
        return round((when - self._zero) * 1e6, 3)

    def span(self, pid: int, tid: int, name: str, began: float, ended: float, **args: object) -> Event:
        ts = self.us(began)
        return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": ts, "dur": self.us(ended) - ts, "args": args}


def _named(pid: int, process: str, lanes: dict[int, str]) -> Iterator[Event]:
    yield {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": process}}
    for tid, lane in lanes.items():
        yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": lane}}
        yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}


def _worker_events(pid: int, log: WorkerLog, spans: Sequence[DeviceSpan], clock: _Clock) -> Iterator[Event]:
    life = f" (life {log.incarnation + 1})" if log.incarnation else ""
    yield from _named(pid, f"worker {log.worker_id} on {log.device}{life}", {_HOST: "host", _DEVICE: "device"})
    for step in log.steps:
        args = {"step": step.step_id}
        yield clock.span(pid, _HOST, "schedule", step.began, step.scheduled, **args)
        yield clock.span(pid, _HOST, "submit", step.scheduled, step.submitted, **args)
        yield clock.span(pid, _HOST, "wait", step.awaited, step.landed, **args)
        yield clock.span(pid, _HOST, "apply", step.landed, step.applied, **args)
    for span in spans:
        step = span.step
        rows = {"prefill tokens": step.num_prefill_tokens, "decode rows": step.num_decodes}
        name = "decode" if not step.num_prefills else "prefill" if not step.num_decodes else "prefill + decode"
        args = {"step": step.step_id, "prompt chunks": step.num_prefills, **rows}
        yield clock.span(pid, _DEVICE, name, span.began, span.ended, **args)
        yield {"ph": "C", "pid": pid, "name": "batch", "ts": clock.us(span.began), "args": rows}
    for push in log.pushes:  # several may be under way at once, which spans of one lane may not
        name = f"push {push.num_blocks} blocks"
        key: Event = {"cat": "KV pushes", "id": push.push_id, "pid": pid, "tid": _DEVICE, "name": name}
        facts = {"bytes": push.num_bytes, "transport": push.transport, "error": push.error}
        yield {"ph": "b", "ts": clock.us(push.began), "args": facts, **key}
        yield {"ph": "e", "ts": clock.us(push.ended), **key}


def request_lanes(requests: Sequence[TracedRequest]) -> list[int]:
    """For each request, in order of arrival, the lowest lane that is free by then."""
    free_at: list[float] = []
    lanes = []
    for request in requests:
        lane = next((i for i, when in enumerate(free_at) if when <= request.began), len(free_at))
        if lane == len(free_at):
            free_at.append(0.0)
        free_at[lane] = request.ended
        lanes.append(lane + 1)
    return lanes


def _request_events(requests: Sequence[TracedRequest], lanes: Sequence[int], clock: _Clock) -> Iterator[Event]:
    yield from _named(_REQUESTS_PID, "requests", {lane: f"lane {lane}" for lane in sorted(set(lanes))})
    for request, lane in zip(requests, lanes, strict=True):
        args = {"prompt": request.num_prompt_tokens, "output": request.num_output_tokens, "why": request.why}
        name = f"{request.request_id} ({request.reason})"
        yield clock.span(_REQUESTS_PID, lane, name, request.began, request.ended, **args)
        for phase in request.phases:
            ended = min(phase.ended, request.ended)
            yield clock.span(_REQUESTS_PID, lane, phase.name, min(phase.began, ended), ended)


def _arrows(
    requests: Sequence[TracedRequest], lanes: Sequence[int], spans: dict[int, list[DeviceSpan]], clock: _Clock
) -> Iterator[Event]:
    stations = _stations(spans)
    for number, (request, lane) in enumerate(zip(requests, lanes, strict=True), start=1):
        stops = sorted(stations.get(request.request_id, ()))
        key: Event = {"cat": "request", "name": "request", "id": number}
        for kind, (when, pid, tid) in _kinds([(request.began, _REQUESTS_PID, lane), *stops]):
            yield {"ph": kind, "bp": "e", "pid": pid, "tid": tid, "ts": clock.us(when), **key}


def _kinds(points: Sequence[tuple[float, int, int]]) -> Iterable[tuple[str, tuple[float, int, int]]]:
    """Start, steps and finish of an arrow; nothing where there is no second point."""
    if len(points) < 2:
        return ()
    return zip(["s", *"t" * (len(points) - 2), "f"], points, strict=True)


def _stations(spans: dict[int, list[DeviceSpan]]) -> dict[str, list[tuple[float, int, int]]]:
    """By request: (when, process, lane) of its first step on each worker, and of its last step of all."""
    first: dict[tuple[str, int], float] = {}
    last: dict[str, tuple[float, int, int]] = {}
    for pid, of_worker in spans.items():
        for span in of_worker:
            for seq_id in span.step.request_ids:
                request_id = seq_id.rpartition("#")[0]  # the engine's key of a leg ends with the attempt
                first.setdefault((request_id, pid), span.began)
                last[request_id] = max(last.get(request_id, (0.0, 0, 0)), (span.began, pid, _DEVICE))
    found: dict[str, set[tuple[float, int, int]]] = {request_id: {point} for request_id, point in last.items()}
    for (request_id, pid), when in first.items():
        found[request_id].add((when, pid, _DEVICE))
    return {request_id: list(points) for request_id, points in found.items()}
