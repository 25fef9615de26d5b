"""The trace file: spans nest, arrows are whole, phases cover a request."""

import json
from collections import defaultdict
from typing import Any

from support.traces import check_trace

from nanopd.cluster.events import RequestReport
from nanopd.messages import LegTimes
from nanopd.router.plan import Candidate, Decision
from nanopd.tracing.chrome import chrome_trace, request_lanes
from nanopd.tracing.logs import TracedPhase, TracedPush, TracedRequest, TracedStep, WorkerLog
from nanopd.tracing.requests import phases


def request(name: str, began: float, ended: float) -> TracedRequest:
    middle = (began + ended) / 2
    cuts = (TracedPhase("prefill", began, middle), TracedPhase("decode", middle, ended))
    return TracedRequest(name, began, ended, "length", 8, 3, "only one worker", cuts)


def step(step_id: int, began: float, *request_ids: str) -> TracedStep:
    times = [began + offset for offset in (0.0, 0.001, 0.002, 0.003, 0.05, 0.051)]
    return TracedStep(step_id, *times, 45.0, 8 if step_id == 0 else 0, int(step_id == 0), int(step_id > 0), request_ids)


def example() -> dict[str, Any]:
    prefill = WorkerLog(
        "prefill-0", 0, "cuda:0", (step(0, 10.1, "a#0", "b#0"),), (TracedPush("a#0/0", 10.15, 10.2, 2, 999, "x"),)
    )
    decode = WorkerLog("decode-0", 1, "cuda:1", (step(1, 10.3, "a#0"), step(2, 10.4, "a#0", "b#0")), ())
    return chrome_trace(
        [prefill, decode], [request("a", 10.0, 10.5), request("b", 10.05, 10.6), request("c", 10.55, 10.7)]
    )


def test_spans_nest_and_arrows_are_whole() -> None:
    events = check_trace(json.loads(json.dumps(example())))
    arrows: dict[int, list[str]] = defaultdict(list)
    for event in sorted((e for e in events if e["ph"] in "stf"), key=lambda e: e["ts"]):
        arrows[event["id"]].append(f"{event['ph']}{event['pid']}")
    # a: arrival, prefill, first and last decode; b shares two of the steps; c ran before the recorders began.
    assert dict(arrows) == {1: ["s1", "t2", "t3", "f3"], 2: ["s1", "t2", "f3"]}
    assert any(e["ph"] == "M" and e["args"].get("name") == "worker decode-0 on cuda:1 (life 2)" for e in events)


def test_times_begin_at_zero_in_microseconds() -> None:
    spans = [event for event in example()["traceEvents"] if event["ph"] == "X"]
    assert min(event["ts"] for event in spans) == 0.0
    (push,) = [event for event in example()["traceEvents"] if event["ph"] == "b"]
    assert push["ts"] == 150_000.0


def test_requests_share_lanes_only_one_after_another() -> None:
    lanes = request_lanes(
        [request("a", 0.0, 2.0), request("b", 1.0, 3.0), request("c", 2.0, 4.0), request("d", 2.5, 5.0)]
    )
    assert lanes == [1, 2, 1, 3]


def test_an_empty_trace_is_a_trace() -> None:
    check_trace(chrome_trace([], []))


def report(timeline: tuple[tuple[float, str], ...], ttft_s: float | None) -> RequestReport:
    decision = Decision(Candidate("p", "d"), "because", "none")
    return RequestReport(decision, 8, 3, 1, ttft_s, 1.0, 0.1, prefill=LegTimes(queue_ms=50.0), timeline=timeline)


def named(found: tuple[TracedPhase, ...]) -> list[tuple[str, float, float]]:
    return [(phase.name, round(phase.began, 3), round(phase.ended, 3)) for phase in found]


def test_phases_of_a_disaggregated_request() -> None:
    timeline = ((0.0, "reserving on d"), (0.1, "prefilling on p"), (0.6, "decoding on d"), (1.0, "finished length"))
    assert named(phases(report(timeline, 0.4), 5.0)) == [
        ("reserve", 5.0, 5.1), ("queue", 5.1, 5.15), ("prefill", 5.15, 5.4), ("hand-off", 5.4, 5.6), ("decode", 5.6, 6.0),
    ]  # fmt: skip


def test_phases_of_a_collocated_request_and_of_one_without_a_token() -> None:
    timeline = ((0.0, "local on c"), (1.0, "finished length"))
    assert named(phases(report(timeline, 0.4), 0.0)) == [
        ("queue", 0.0, 0.05),
        ("prefill", 0.05, 0.4),
        ("decode", 0.4, 1.0),
    ]
    assert named(phases(report(timeline, None), 0.0)) == [("queue", 0.0, 0.05), ("prefill", 0.05, 1.0)]
