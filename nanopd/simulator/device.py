"""A device that several workers share: their processes take turns on it, in slices much shorter than a step.

So of ``n`` workers that have something to run each gets an n-th part of the device, less what switching takes. A process with short kernels loses
more by it than one with long ones; how much is measured (``benchmarks/fidelity``), not derived.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nanopd.simulator.events import EventQueue


@dataclass(frozen=True, slots=True)
class DeviceSharing:
    """What is left of a worker's part of a shared device: ``decode`` while it runs a step without prompts, ``prefill`` else; 1: all. More than 1
    where a worker alone cannot use the whole device, as one of a CPU's cores."""

    decode: float = 1.0
    prefill: float = 1.0


@dataclass(slots=True, eq=False)
class _Step:
    left_s: float  # of the whole device
    is_decode: bool
    on_end: Callable[[], None]
    rate: float = 0.0


class SharedDevice:
    """Each worker's steps run in order, those of different workers at once."""

    def __init__(self, sharing: DeviceSharing, events: EventQueue) -> None:
        self._sharing = sharing
        self._events = events
        self._queues: dict[str, deque[_Step]] = {}
        self._settled_at = 0.0
        self._version = 0  # of the rates

    def run(self, worker_id: str, step_s: float, is_decode: bool, on_end: Callable[[], None]) -> None:
        """``step_s``: seconds the step takes of a device of its own. ``on_end`` is called when its work is done."""
        self._settle()
        self._queues.setdefault(worker_id, deque()).append(_Step(step_s, is_decode, on_end))
        self._share()

    def _settle(self) -> None:
        """Books what has been done since the rates were last set."""
        now = self._events.clock.now()
        elapsed, self._settled_at = now - self._settled_at, now
        for queue in self._queues.values():
            if queue:
                queue[0].left_s -= queue[0].rate * elapsed

    def _share(self) -> None:
        """Sets the rates anew and waits for the first step that ends at them."""
        self._version += 1
        running = [queue[0] for queue in self._queues.values() if queue]
        if not running:
            return
        for step in running:
            kept = self._sharing.decode if step.is_decode else self._sharing.prefill
            step.rate = kept / len(running) if len(running) > 1 else 1.0
        first = min(running, key=lambda step: step.left_s / step.rate)
        version = self._version
        self._events.at(self._settled_at + max(0.0, first.left_s / first.rate), lambda: self._end(version, first))

    def _end(self, version: int, step: _Step) -> None:
        if version != self._version:
            return  # the rates have changed since
        self._settle()
        for queue in self._queues.values():
            if queue and queue[0] is step:
                queue.popleft()
        self._share()
        step.on_end()
