"""The thread of a sender that copies by itself, so that compute goes on: pushes in order, each reported once, cancelled ones cut short."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from nanopd.kv_transfer.transport import PushResult

Copied = tuple[int, str | None]  # bytes written and, if it stopped early, why


@dataclass(frozen=True, slots=True)
class _Job:
    push_id: str
    copy: Callable[[], Copied]


class PushThread:
    """``poll``, ``cancel`` and ``close`` as in ``KvSender``; whoever has it starts the copies."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[_Job | tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._results: deque[PushResult] = deque()  # appended by the thread, popped by poll; both atomic
        self._in_flight: set[str] = set()
        self._cancelled: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, push_id: str, copy: Callable[[], Copied]) -> None:
        """Runs ``copy`` after those before it. It looks at ``is_cancelled`` now and then; what it raises is the push's error."""
        self._in_flight.add(push_id)
        self._queue.put(_Job(push_id, copy))

    def call(self, action: Callable[[], Any]) -> "Future[Any]":
        """Runs ``action`` between two pushes; its outcome can be waited for."""
        future: Future[Any] = Future()
        self._queue.put((action, future))
        return future

    def is_cancelled(self, push_id: str) -> bool:
        return push_id in self._cancelled

    def poll(self) -> list[PushResult]:
        results = [self._results.popleft() for _ in range(len(self._results))]
        for result in results:
            self._in_flight.discard(result.push_id)
            self._cancelled.discard(result.push_id)
        return results

    def cancel(self, push_id: str) -> None:
        if push_id in self._in_flight:
            self._cancelled.add(push_id)

    def close(self) -> None:
        """Cancels what has not ended and waits for the thread."""
        self._cancelled |= self._in_flight
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, _Job):
                self._results.append(_carry_out(item))
                continue
            action, future = item
            try:
                future.set_result(action())
            except Exception as failure:  # belongs to whoever waits
                future.set_exception(failure)


def _carry_out(job: _Job) -> PushResult:
    began = time.perf_counter()
    try:
        num_bytes, error = job.copy()
    except Exception as failure:  # goes to whoever waits for the push: the thread must outlive it
        num_bytes, error = 0, f"{type(failure).__name__}: {failure}"
    return PushResult(job.push_id, num_bytes, (time.perf_counter() - began) * 1e3, error)
