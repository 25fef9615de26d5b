"""What two workers on one GPU take of one another: the same steps alone, and beside a neighbour process that never rests; or as the step logs of a
run show it."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from statistics import fmean, median

import msgspec

from nanopd.batch import Batch
from nanopd.config import EngineConfig
from nanopd.cost_model import StepFeatures, StepModel
from nanopd.model_runner import ModelRunner
from nanopd.profiler import load_runner
from nanopd.profiler.grid import Case, ragged
from nanopd.profiler.steps import StepBench
from nanopd.simulator.device import DeviceSharing
from nanopd.tracing.device_time import DeviceSpan, device_spans
from nanopd.tracing.logs import TracedStep, WorkerLog

DECODE = Case((), ragged(16, 1024))
PREFILL = Case(((512, 0),) * 3)
_DEPTH = 2  # steps in flight, as a worker has them
_WARM_UP = 4
_WHOLLY = 0.97


class MeasuredSharing(msgspec.Struct, frozen=True):
    """Milliseconds a step keeps the device: alone, and beside a neighbour that runs steps of the other kind."""

    decode_alone_ms: float
    decode_beside_ms: float
    prefill_alone_ms: float
    prefill_beside_ms: float

    @property
    def sharing(self) -> DeviceSharing:
        """Of half the device, what is left."""
        return DeviceSharing(
            2.0 * self.decode_alone_ms / self.decode_beside_ms, 2.0 * self.prefill_alone_ms / self.prefill_beside_ms
        )

    def describe(self) -> str:
        return (
            f"a decode step (16 at context 1024) takes {self.decode_alone_ms:.2f} ms alone and {self.decode_beside_ms:.2f} ms beside a process that "
            f"always prefills, a prefill step (3 chunks of 512) {self.prefill_alone_ms:.2f} ms alone and {self.prefill_beside_ms:.2f} ms beside one "
            f"that always decodes"
        )


def measure_sharing(runner: ModelRunner, pipe: Connection) -> MeasuredSharing:
    """On the GPU of ``runner``; ``pipe`` leads to a ``neighbour`` on the same."""
    bench = StepBench(runner)
    decode, prefill = bench.batch(DECODE), bench.batch(PREFILL)
    return MeasuredSharing(
        decode_alone_ms=_mean_ms(runner, decode, 60),
        decode_beside_ms=_beside(runner, decode, 90, pipe, PREFILL),
        prefill_alone_ms=_mean_ms(runner, prefill, 20),
        prefill_beside_ms=_beside(runner, prefill, 25, pipe, DECODE),
    )


@contextmanager
def neighbour(config: EngineConfig) -> Iterator[Connection]:
    """A process that loads the model as well, and rests. Says "rests" when it has it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_neighbour, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()  # so that its end is noticed
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def sharing_of_logs(logs: Sequence[WorkerLog], step: StepModel, prefix: str) -> DeviceSharing:
    """Of the steps of 1P+1D that lay wholly beside steps of the other worker, for requests whose ids begin with ``prefix`` and whose contexts are
    short: prefills against ``step``, decodes against those that had the device to themselves."""
    prefills, decodes = (
        [span for span in device_spans(log.steps) if span.step.request_ids[0].startswith(prefix)]
        for log in sorted(logs, key=lambda log: "decode" in log.worker_id)
    )
    undisturbed = [span.step.device_ms or 0.0 for span in decodes if _overlap(span, prefills) == 0.0]
    disturbed = [span.step.device_ms or 0.0 for span in decodes if _overlap(span, prefills) > _WHOLLY]
    kept = [
        2.0 * step.device_ms(_as_prompts(span.step)) / (span.step.device_ms or 1.0)
        for span in prefills
        if _overlap(span, decodes) > _WHOLLY
    ]
    return DeviceSharing(2.0 * median(undisturbed) / median(disturbed), median(kept))


def _as_prompts(step: TracedStep) -> StepFeatures:
    return StepFeatures.of_prefill(step.num_prefill_tokens // step.num_prefills, 0, step.num_prefills)


def _overlap(span: DeviceSpan, others: Sequence[DeviceSpan]) -> float:
    """Share of its time in which one of ``others`` ran."""
    both = (min(span.ended, other.ended) - max(span.began, other.began) for other in others)
    return sum(max(0.0, seconds) for seconds in both) / (span.ended - span.began)


def _beside(runner: ModelRunner, batch: Batch, num_steps: int, pipe: Connection, case: Case) -> float:
    pipe.send(case)
    assert pipe.recv() == "runs"
    mean_ms = _mean_ms(runner, batch, num_steps)
    pipe.send("rest")
    assert pipe.recv() == "rests"
    return mean_ms


def _mean_ms(runner: ModelRunner, batch: Batch, num_steps: int) -> float:
    times = []
    for index, ms in zip(range(_WARM_UP + num_steps), _device_ms(runner, batch), strict=False):
        if index >= _WARM_UP:
            times.append(ms)
    return fmean(times)


def _device_ms(runner: ModelRunner, batch: Batch) -> Iterator[float]:
    """Of step after step, the next always launched before the one before is done."""
    handles = deque(runner.submit(batch) for _ in range(_DEPTH))
    while True:
        yield handles.popleft().result().device_ms or 0.0
        handles.append(runner.submit(batch))


def _run_neighbour(config: EngineConfig, pipe: Connection) -> None:
    runner = load_runner(config, quick=True)
    bench = StepBench(runner)
    pipe.send("rests")
    while True:
        case = pipe.recv()
        steps = _device_ms(runner, bench.batch(case))
        for index in count():
            next(steps)
            if index == _WARM_UP:
                pipe.send("runs")
            if pipe.poll():
                break
        assert pipe.recv() == "rest"
        pipe.send("rests")
