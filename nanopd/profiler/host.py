"""What the host does around every step: the engine over an executor that takes no time."""

import time
from statistics import median

from nanopd.batch import Batch, StepResult
from nanopd.block_manager import BlockManager
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.workers.wall_clock import WallClock

_PROMPT = 16


class InstantExecutor:
    """Every step is done when it is submitted; every token is 1."""

    def submit(self, batch: Batch) -> "_Done":
        num_rows = sum(piece.sample is not None for piece in batch.slices)
        return _Done(StepResult([1] * num_rows, [None] * num_rows))


class _Done:
    def __init__(self, result: StepResult) -> None:
        self._result = result

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self._result


def host_step_ms(batch: int, block_size: int = 16, num_steps: int = 200) -> float:
    """Median milliseconds of an engine step that decodes ``batch`` sequences, the device's work aside."""
    length = _PROMPT + num_steps + 8
    blocks = BlockManager(batch * (-(-length // block_size) + 1) + 8, block_size, True)
    engine = Engine(Scheduler(SchedulerConfig(max_num_seqs=batch), blocks, length), InstantExecutor(), WallClock())
    params = SamplingParams(temperature=0.0, max_tokens=num_steps + 4, seed=0, ignore_eos=True)
    for i in range(batch):
        engine.run_local(f"r{i}", Request(f"r{i}", (1,) * _PROMPT, params))
    for _ in range(-(-batch * _PROMPT // SchedulerConfig().max_num_batched_tokens) + 2):
        engine.step()
    times = []
    for _ in range(num_steps):
        begun = time.perf_counter()
        engine.step()
        times.append((time.perf_counter() - begun) * 1e3)
    return median(times)
