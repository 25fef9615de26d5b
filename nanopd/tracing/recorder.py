"""A worker's log while it runs: the last so many steps and pushes."""

from collections import deque
from pathlib import Path

from nanopd.batch import Batch, StepResult
from nanopd.engine.report import step_timing
from nanopd.tracing.logs import TracedPush, TracedStep, WorkerLog, write_log

MAX_STEPS = 100_000  # about 50 MB; a decode-only run of five minutes or more


class Recorder:
    """An ``engine.StepObserver``. Costs a few microseconds a step; an engine without one pays nothing."""

    def __init__(self, worker_id: str, incarnation: int, device: str, max_steps: int = MAX_STEPS) -> None:
        self._who = (worker_id, incarnation, device)
        self._submitted: deque[tuple[float, float, float]] = deque()  # of the steps in flight
        self._steps: deque[TracedStep] = deque(maxlen=max_steps)
        self._pushes: deque[TracedPush] = deque(maxlen=max_steps)
        self._num_steps = 0

    def submitted(self, batch: Batch, began: float, scheduled: float, submitted: float) -> None:
        self._submitted.append((began, scheduled, submitted))

    def collected(self, batch: Batch, result: StepResult, awaited: float, landed: float, applied: float) -> None:
        timing = step_timing(batch, 0.0)
        step = TracedStep(
            batch.step_id,
            *self._submitted.popleft(),
            awaited,
            landed,
            applied,
            result.device_ms,
            timing.num_prefill_tokens,
            timing.num_prefills,
            timing.num_decodes,
            tuple(piece.request_id for piece in batch.slices),
        )
        self._steps.append(step)
        self._num_steps += 1

    def pushed(self, push: TracedPush) -> None:
        """A push has ended."""
        self._pushes.append(push)

    def log(self) -> WorkerLog:
        return WorkerLog(*self._who, tuple(self._steps), tuple(self._pushes), self._num_steps - len(self._steps))

    def write(self, directory: str) -> None:
        worker_id, incarnation, _ = self._who
        write_log(Path(directory), f"{worker_id}.{incarnation}", self.log())
