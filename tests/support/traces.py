"""What must hold of every Chrome trace."""

from collections import defaultdict
from typing import Any

ROUNDING_US = 0.01


def check_trace(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Spans of a lane nest, pairs are whole, arrows begin once, end once, and land on a span. Returns the events."""
    events: list[dict[str, Any]] = trace["traceEvents"]
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    arrows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    open_pairs: set[str] = set()
    for event in events:
        match event["ph"]:
            case "X":
                assert event["dur"] >= 0, event
                lanes[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
            case "b":
                open_pairs.add(event["id"])
            case "e":
                open_pairs.remove(event["id"])
            case "s" | "t" | "f":
                arrows[event["id"]].append(event)
    assert not open_pairs
    for spans in lanes.values():
        check_nesting(spans)
    for points in arrows.values():
        points.sort(key=lambda event: event["ts"])
        assert [event["ph"] for event in points] == ["s", *"t" * (len(points) - 2), "f"]
        for event in points:
            spans = lanes[event["pid"], event["tid"]]
            assert any(begin - ROUNDING_US <= event["ts"] <= end + ROUNDING_US for begin, end in spans), event
    return events


def check_nesting(spans: list[tuple[float, float]]) -> None:
    stack: list[float] = []
    for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        while stack and stack[-1] <= begin + ROUNDING_US:
            stack.pop()
        assert not stack or end <= stack[-1] + ROUNDING_US, "spans of one lane overlap"
        stack.append(end)
