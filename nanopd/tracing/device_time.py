"""When the device was busy, and the share of time in which it was not."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nanopd.tracing.logs import TracedStep, WorkerLog

_WAITED_S = 1e-4  # fetching the result of a step that has ended takes less
_AT_ONCE_S = 1e-3  # messages between two steps take less


@dataclass(frozen=True, slots=True)
class DeviceSpan:
    """A step on its device, seconds."""

    step: TracedStep
    began: float
    ended: float


def device_spans(steps: Sequence[TracedStep]) -> list[DeviceSpan]:
    """Where the steps lie in time. A device tells how long a step took, not when: one that the host waited for ended as its result was seen;
    any other began as soon as it was there and the one before it had ended."""
    spans: list[DeviceSpan] = []
    free_at = float("-inf")
    for step in steps:
        length = (step.landed - step.scheduled) if step.device_ms is None else step.device_ms / 1e3
        was_waited_for = step.landed - step.awaited > _WAITED_S
        ended = step.landed if was_waited_for else min(step.landed, max(step.scheduled, free_at) + length)
        began = max(free_at, ended - length)
        free_at = max(began, ended)
        spans.append(DeviceSpan(step, began, free_at))
    return spans


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What became of one worker's device between its first step and the end of its last."""

    worker_id: str
    num_steps: int
    num_prefill_tokens: int
    num_decodes: int
    busy_s: float
    without_work_s: float  # the engine had nothing to schedule
    span_s: float

    @property
    def idle_share(self) -> float:
        """Of the time in which there was work: what the host did not hide."""
        working_s = self.span_s - self.without_work_s
        return max(0.0, 1.0 - self.busy_s / working_s) if working_s > 0 else 0.0


def device_use(log: WorkerLog) -> DeviceUse:
    spans = device_spans(log.steps)
    return DeviceUse(
        log.worker_id,
        len(spans),
        sum(step.num_prefill_tokens for step in log.steps),
        sum(step.num_decodes for step in log.steps),
        sum(span.ended - span.began for span in spans),
        sum(_without_work(earlier, later) for earlier, later in pairwise(spans)),
        spans[-1].ended - spans[0].began if spans else 0.0,
    )


def _without_work(earlier: DeviceSpan, later: DeviceSpan) -> float:
    """Seconds of the gap between two steps in which the engine had none to schedule: with work it goes on at once."""
    rested = later.step.began - earlier.step.applied > _AT_ONCE_S
    return max(0.0, min(later.step.began, later.began) - max(earlier.step.applied, earlier.ended)) if rested else 0.0
