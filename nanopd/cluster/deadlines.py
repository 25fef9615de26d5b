"""Deadlines by time. Entries are checked when they come due, so nobody has to take one back."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from nanopd.messages import Leg


class Wait(StrEnum):
    """What is being waited for."""

    PLAN = "plan"  # a worker that can take a queued request
    RESERVE = "reserve"  # the decode worker's answer
    ABORT = "abort"  # the end of an aborted leg
    HEARTBEAT = "heartbeat"  # any news from a worker


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """When a wait ends."""

    when: float
    sequence: int
    wait: Wait = field(compare=False)
    leg: Leg | None = field(compare=False, default=None)
    worker_id: str = field(compare=False, default="")
    incarnation: int = field(compare=False, default=0)


class Deadlines:
    """A heap of deadlines."""

    def __init__(self) -> None:
        self._heap: list[Deadline] = []
        self._sequence = 0

    def add(
        self, when: float, wait: Wait, *, leg: Leg | None = None, worker_id: str = "", incarnation: int = 0
    ) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, Deadline(when, self._sequence, wait, leg, worker_id, incarnation))

    def next(self) -> float | None:
        """When the earliest comes due."""
        return self._heap[0].when if self._heap else None

    def due(self, now: float) -> Iterator[Deadline]:
        """Takes out what has come due."""
        while self._heap and self._heap[0].when <= now:
            yield heapq.heappop(self._heap)
