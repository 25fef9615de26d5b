"""Runs steps on a device and times them, as an engine would see them."""

import random
import time
from array import array
from collections.abc import Iterator
from statistics import median

import torch

from nanopd.batch import BLOCK_TABLE_TYPECODE, Batch, SampleSpec, SeqSlice
from nanopd.model_runner import ModelRunner
from nanopd.profiler.grid import Case
from nanopd.request import SamplingParams

_PIPELINED = 3  # steps in a row on a GPU: all but the first find the host ahead
_LONG_STEP = 1024  # tokens beyond which two suffice: the first gives the host time enough
_HEAD_START_CYCLES = 80_000_000  # some 40 ms in which the host launches two steps with prompts, however slowly
_CYCLES_PER_MS, _HEAD_START_LAUNCHES = 2_000_000, 4  # once it is known how long a launch takes


class StepBench:
    """Builds batches over shuffled blocks of the runner's pool. The KV they read is whatever is there: time does not depend on it."""

    def __init__(self, runner: ModelRunner, seed: int = 0) -> None:
        self._runner = runner
        self._random = random.Random(seed)
        self._block_ids = list(range(runner.kv_cache.num_blocks))
        self._random.shuffle(self._block_ids)
        self._vocab_size = runner.model_config.vocab_size
        self._params = SamplingParams(temperature=0.0, max_tokens=2, seed=0)
        self._num_steps = 0
        runner.kv_cache.pool.fill_(0.01)  # untouched memory would all be one page of zeros, in the cache
        one_thread = runner.device.type == "cpu" and torch.get_num_threads() == 1
        self._clock = time.process_time if one_thread else time.perf_counter
        self.busy_s = self.elapsed_s = 0.0
        self.launch_times_ms: list[float] = []  # of the host, for short steps with prompts
        self._head_start_cycles = _HEAD_START_CYCLES

    @property
    def share(self) -> float:
        """Of the time that went by, what this process got of its core; 1 where that is not known."""
        return self.busy_s / self.elapsed_s if self._clock is time.process_time and self.elapsed_s else 1.0

    @property
    def pool_tokens(self) -> int:
        return len(self._block_ids) * self._runner.kv_cache.block_size

    def step_ms(self, case: Case) -> float:
        """Milliseconds of one step. On a GPU: the device's time, amid other steps. On a CPU: from submission to result; with a single thread,
        the time it ran, since what other programs take of the machine meanwhile is not the step's cost (``share`` tells)."""
        if self._runner.device.type == "cuda":
            return self._device_ms(case)
        batch = self.batch(case)
        begun, clock = time.perf_counter(), self._clock()
        self._runner.submit(batch).result()
        taken = self._clock() - clock
        self.busy_s, self.elapsed_s = self.busy_s + taken, self.elapsed_s + time.perf_counter() - begun
        return taken * 1e3

    def note_warm(self) -> None:
        """Every shape has been run: launches take from now on what they take in service."""
        if self.launch_times_ms:
            head_start_ms = _HEAD_START_LAUNCHES * median(self.launch_times_ms)
            self._head_start_cycles = min(_HEAD_START_CYCLES, round(head_start_ms * _CYCLES_PER_MS))
        self.launch_times_ms.clear()

    def _device_ms(self, case: Case) -> float:
        """What a step keeps a GPU busy for when the host is ahead of it."""
        needs_head_start = bool(case.prefills) and case.features.num_tokens <= _LONG_STEP
        batches = [self.batch(case) for _ in range(2 if case.prefills else _PIPELINED)]
        if needs_head_start:
            torch.cuda._sleep(self._head_start_cycles)
        handles = []
        for batch in batches:
            begun = time.perf_counter()
            handles.append(self._runner.submit(batch))
            if needs_head_start:
                self.launch_times_ms.append((time.perf_counter() - begun) * 1e3)
        return median([handle.result().device_ms or 0.0 for handle in handles][1:])

    def batch(self, case: Case) -> Batch:
        """The case as a scheduler would state it: every decode samples, every prompt chunk is its prompt's last."""
        free = iter(self._block_ids)
        slices = [self._slice(1, context - 1, free) for context in case.decodes]
        slices += [self._slice(num_new, num_cached, free) for num_new, num_cached in case.prefills]
        self._num_steps += 1
        return Batch(self._num_steps, tuple(slices))

    def _slice(self, num_tokens: int, start: int, free: Iterator[int]) -> SeqSlice:
        block_size = self._runner.kv_cache.block_size
        table = array(BLOCK_TABLE_TYPECODE, [next(free) for _ in range(-(-(start + num_tokens) // block_size))])
        ids = [self._random.randrange(self._vocab_size) for _ in range(num_tokens)]
        return SeqSlice(f"s{len(table)}", ids, num_tokens, start, table, sample=SampleSpec(self._params, 0.5, ids, ()))
