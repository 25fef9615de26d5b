"""Signs of life while a long step runs: a thread with a socket of its own."""

import threading
from types import TracebackType

from nanopd.clock import Clock
from nanopd.messages import Heartbeat, WorkerStats
from nanopd.workers.channel import WorkerChannel, identity
from nanopd.workers.options import WorkerOptions


class Heart:
    """Sends the last known load whenever the loop has been silent for an interval; the loop's own heartbeats say the rest.

    Only the loop reports legs: its heartbeats travel behind its other messages, so a leg they leave out has truly ended.
    """

    def __init__(self, options: WorkerOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._stats = WorkerStats()
        self._beat_at = clock.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nanopd-heart", daemon=True)

    @property
    def is_due(self) -> bool:
        """Whether the loop should send a heartbeat."""
        return self._clock.now() - self._beat_at >= self._options.heartbeat_interval_s

    def beat(self, stats: WorkerStats) -> None:
        """The loop has just sent a heartbeat."""
        self._stats = stats
        self._beat_at = self._clock.now()

    def __enter__(self) -> "Heart":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        options = self._options
        channel = WorkerChannel(options.address, identity(options.worker_id, options.incarnation, "heart"))
        while not self._stop.wait(options.heartbeat_interval_s):
            if self._clock.now() - self._beat_at > 1.5 * options.heartbeat_interval_s:
                channel.send(Heartbeat(self._stats))
        channel.close()
