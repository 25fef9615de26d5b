"""The real engine in this process: one worker's scheduler, block manager and model runner, fed with the trace as time goes by."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.fidelity.rows import Row
from nanopd.block_manager import BlockManager
from nanopd.config import EngineConfig
from nanopd.cost_model import StepFeatures
from nanopd.engine import Engine
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.workload import RequestSpec, token_ids


class SteadyClock:
    """Wall time; or, for a CPU worker with one thread, the thread's own CPU time, so that what other programs take of the machine does not
    enter. Idle time is jumped over."""

    def __init__(self, counts_cpu_time: bool) -> None:
        self._time = time.thread_time if counts_cpu_time else time.perf_counter
        self._jumped = 0.0

    def now(self) -> float:
        return self._time() + self._jumped

    def jump_to(self, when: float) -> None:
        self._jumped += max(0.0, when - self.now())

    def stand_still(self, meanwhile: Callable[[], None]) -> None:
        began = self._time()
        meanwhile()
        self._jumped -= self._time() - began


@dataclass(frozen=True, slots=True)
class Served:
    """One run: a row for every request in order of arrival, and the steps with their milliseconds."""

    rows: list[Row]
    steps: list[tuple[StepFeatures, float]]
    clock: str


def serve(
    runner: ModelRunner,
    config: EngineConfig,
    specs: Sequence[RequestSpec],
    between: Callable[[], None] | None = None,
) -> Served:
    """Serves ``specs`` (in order of arrival), every answer exactly as long as its spec says.

    ``between`` is called after every step, off the clock.
    """
    is_cpu = runner.device.type == "cpu"
    by_cpu_time = is_cpu and torch.get_num_threads() == 1
    clock = SteadyClock(by_cpu_time)
    blocks = BlockManager(runner.kv_cache.num_blocks, config.cache.block_size, config.cache.enable_prefix_cache)
    depth = 1 if is_cpu else 2  # as a worker process has it
    engine = Engine(Scheduler(config.scheduler, blocks, runner.max_model_len), runner, clock, depth)
    requests = [_request(index, spec, runner.model_config.vocab_size) for index, spec in enumerate(specs)]
    times: list[list[float]] = [[] for _ in specs]
    steps: list[tuple[StepFeatures, float]] = []
    start, following = clock.now(), 0
    while following < len(specs) or engine.has_work:
        if not engine.has_work:
            clock.jump_to(start + specs[following].arrival_s)
        while following < len(specs) and specs[following].arrival_s <= clock.now() - start:
            engine.run_local(str(following), requests[following])
            following += 1
        report = engine.step()
        now = clock.now() - start
        for output in report.outputs:
            index = int(output.seq_id)
            times[index] += [now - specs[index].arrival_s] * len(output.token_ids)
        if report.timing is not None:
            steps.append((StepFeatures.of_timing(report.timing), report.timing.step_ms))
            if between is not None:
                clock.stand_still(between)
    rows = [Row.of_times(spec.arrival_s, spec.num_prompt_tokens, mine) for spec, mine in zip(specs, times, strict=True)]
    return Served(rows, steps, "CPU time of the one thread, idle time jumped over" if by_cpu_time else "wall")


def _request(index: int, spec: RequestSpec, vocab_size: int) -> Request:
    params = SamplingParams(temperature=0.0, max_tokens=spec.num_output_tokens, seed=0, ignore_eos=True)
    return Request(str(index), token_ids(spec, vocab_size), params)
