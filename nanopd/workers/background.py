"""Executors around executors, so that a worker can look after its hand-offs while a step runs."""

import queue
import threading
from collections.abc import Callable

from nanopd.batch import Batch, StepResult
from nanopd.engine import Executor, StepHandle


class WatchfulExecutor:
    """Calls ``meanwhile`` again and again while somebody waits for a step, as long as it says that there is something to look after."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self._meanwhile: Callable[[], bool] = lambda: False

    def watch(self, meanwhile: Callable[[], bool]) -> None:
        """``meanwhile`` naps a little and returns whether it wants to be called again. It runs between submit and update of a step."""
        self._meanwhile = meanwhile

    def submit(self, batch: Batch) -> StepHandle:
        return _WatchedStep(self._inner.submit(batch), self)

    def wait_for(self, step: StepHandle) -> None:
        while not step.done() and self._meanwhile():
            pass


class _WatchedStep:
    def __init__(self, inner: StepHandle, executor: WatchfulExecutor) -> None:
        self._inner = inner
        self._executor = executor

    def done(self) -> bool:
        return self._inner.done()

    def result(self) -> StepResult:
        self._executor.wait_for(self._inner)
        return self._inner.result()


class BackgroundExecutor:
    """Runs an executor whose ``submit`` does the whole step (a CPU's) on a thread of its own.

    Batches are read there: the scheduler must not touch them before the result is known, so one step may be in flight (depth 1).
    """

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self._queue: queue.SimpleQueue[tuple[Batch, _BackgroundStep] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="nanopd-steps", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> StepHandle:
        step = _BackgroundStep()
        self._queue.put((batch, step))
        return step

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            batch, step = item
            try:
                step.inner = self._inner.submit(batch)
            except BaseException as error:  # belongs to whoever asks for the result
                step.error = error
            step.ended.set()


class _BackgroundStep:
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.inner: StepHandle | None = None
        self.error: BaseException | None = None

    def done(self) -> bool:
        return self.ended.is_set()

    def result(self) -> StepResult:
        self.ended.wait()
        if self.error is not None:
            raise self.error
        assert self.inner is not None
        return self.inner.result()
