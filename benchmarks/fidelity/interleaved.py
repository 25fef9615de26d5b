"""A profile measured between the steps of the run it is to predict: whatever else the machine does meanwhile, both see the same of it."""

import random

from msgspec import structs

from nanopd.config import EngineConfig
from nanopd.cost_model import HardwareProfile, StepSample, TransferModel, bundled, fit_step_model
from nanopd.model_runner import ModelRunner
from nanopd.profiler.grid import CPU, Case, Limits, cases
from nanopd.profiler.hardware import hardware_name
from nanopd.profiler.host import host_step_ms
from nanopd.profiler.steps import StepBench

_NO_TRANSFER = TransferModel(0.0, 1.0)  # one worker has nobody to push to


class InterleavedProfile:
    """Calling it measures the next kind of step on the runner of the run: in its pool, whose content no answer depends on here."""

    def __init__(self, runner: ModelRunner, config: EngineConfig, seed: int = 0) -> None:
        scheduler, pool = config.scheduler, runner.kv_cache
        limits = Limits(
            runner.max_model_len,
            scheduler.max_num_batched_tokens,
            scheduler.max_num_seqs,
            pool.num_blocks * pool.block_size,
        )
        self._bench = StepBench(runner, seed)
        self._grid = cases(CPU, limits)
        self._times: dict[Case, list[float]] = {case: [] for case in self._grid}
        self._left: list[Case] = []
        self._random = random.Random(seed)
        self._config, self._runner = config, runner

    def __call__(self) -> None:
        if not self._left:
            self._left = self._random.sample(self._grid, len(self._grid))
        case = self._left.pop()
        self._times[case].append(self._bench.step_ms(case))

    def finish(self, min_rounds: int) -> HardwareProfile:
        """The profile; measures on until there are ``min_rounds`` of every kind."""
        while min(map(len, self._times.values())) < min_rounds:
            self()
        step = fit_step_model([StepSample(case.features, ms) for case, values in self._times.items() for ms in values])
        return structs.replace(
            bundled("cpu_smollm2"),
            hardware=hardware_name(self._runner.device),
            model=self._config.model,
            dtype=self._runner.dtype,
            source="measured between the steps of the run",
            num_blocks=self._runner.kv_cache.num_blocks,
            max_model_len=self._runner.max_model_len,
            step=step,
            transfer=_NO_TRANSFER,
            host_overhead_ms=host_step_ms(8, self._config.cache.block_size),
            samples=(),
        )
