"""One device from end to end: measure, fit, say how well the fit predicts what it has not seen."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

import torch

from nanopd.config import CacheConfig, EngineConfig
from nanopd.cost_model import HardwareProfile, StepFeatures, StepModel, StepSample, TransferModel, fit_step_model
from nanopd.kv_cache import size_pool
from nanopd.model_runner import ModelRunner
from nanopd.model_runner.device import resolve_device
from nanopd.model_runner.graphs import ladder
from nanopd.profiler.grid import CPU, CPU_QUICK, GPU, GPU_QUICK, Case, Limits, cases
from nanopd.profiler.hardware import hardware_name
from nanopd.profiler.host import host_step_ms
from nanopd.profiler.steps import StepBench
from nanopd.profiler.transfer import TransferBench, fit_transfer, measure_transfer

_NUM_FOLDS = 5
_MIN_ROUNDS = 3
_NUM_CPU_WARM_UPS = 4  # a GPU first compiles for every shape
_CPU_POOL_TOKENS, _GPU_POOL_TOKENS = 12_288, 300_000
_TRANSFER_BLOCKS = 256
_HOST_BATCH = 8

Progress = Callable[[str, float], None]  # what is being done, the share of all that is done


@dataclass(frozen=True, slots=True)
class Measured:
    """A profile and how it came about."""

    profile: HardwareProfile
    transport: str
    num_rounds: int
    spread: float  # median over cases of (90th - 10th percentile) / median
    share: float  # of its core that a single-threaded CPU measurement got; step times are net of the rest
    seconds: float


def profile_device(
    config: EngineConfig,
    *,
    budget_s: float,
    quick: bool = False,
    seed: int = 0,
    commit: str = "",
    progress: Progress = lambda _what, _share: None,
) -> Measured:
    """Measures for about ``budget_s`` seconds (at least three rounds over the grid). ``config``: as the worker's would be."""
    begun = time.perf_counter()
    progress("loading the model", 0.0)
    is_gpu = resolve_device(config.device).type == "cuda"
    pool_tokens = (_GPU_POOL_TOKENS if is_gpu else _CPU_POOL_TOKENS) // (4 if quick else 1)
    pool = replace(config.cache, num_blocks=pool_tokens // config.cache.block_size)
    runner = ModelRunner.load(replace(config, cache=pool))
    scheduler = config.scheduler
    limits = Limits(runner.max_model_len, scheduler.max_num_batched_tokens, scheduler.max_num_seqs, pool_tokens)
    bench = StepBench(runner, seed)
    grid = cases((GPU_QUICK if quick else GPU) if is_gpu else (CPU_QUICK if quick else CPU), limits)
    times = _measure_steps(bench, grid, budget_s, is_gpu, seed, progress)
    progress("KV transfer", 0.9)
    transport, transfer = _measure_transfer(runner, config.cache.block_size, 3 if quick else 9, seed)
    progress("host overhead", 0.95)
    host_ms = host_step_ms(_HOST_BATCH, config.cache.block_size)
    progress("fitting", 0.97)
    sizes = tuple(ladder(scheduler.max_num_seqs)) if is_gpu and config.cuda_graphs else ()
    profile = _fitted(config, runner, times, sizes, transfer, host_ms, commit, seed)
    progress("done", 1.0)
    num_rounds = len(next(iter(times.values())))
    return Measured(profile, transport, num_rounds, _spread(times), bench.share, time.perf_counter() - begun)


def _fitted(
    config: EngineConfig,
    runner: ModelRunner,
    times: dict[Case, list[float]],
    sizes: tuple[int, ...],
    transfer: TransferModel,
    host_ms: float,
    commit: str,
    seed: int,
) -> HardwareProfile:
    step = fit_step_model([StepSample(case.features, ms) for case, values in times.items() for ms in values], sizes)
    is_gpu = runner.device.type == "cuda"
    hidden_ms = (
        step.predict_ms(StepFeatures.of_decode(_HOST_BATCH, 256)) if is_gpu else 0.0
    )  # it works on while the host does
    return HardwareProfile(
        hardware=hardware_name(runner.device),
        model=config.model,
        dtype=runner.dtype,
        source=f"nanopd profile: {len(times)} kinds of steps, {len(next(iter(times.values())))} rounds in random order, "
        f"medians kept as samples; {_timing(runner.device)}",
        commit=commit,
        date=time.strftime("%Y-%m-%d"),
        kv_bytes_per_token=runner.model_config.kv_bytes_per_token(runner.dtype),
        block_size=config.cache.block_size,
        num_blocks=_worker_blocks(config, runner),
        max_model_len=config.max_model_len or runner.model_config.max_position,
        step=step,
        transfer=transfer,
        host_overhead_ms=max(0.0, host_ms - hidden_ms),
        held_out_errors=held_out_errors(times, sizes, seed),
        samples=tuple(StepSample(case.features, median(values)) for case, values in times.items()),
    )


def _measure_transfer(runner: ModelRunner, block_size: int, num_rounds: int, seed: int) -> tuple[str, TransferModel]:
    """The transport's name and its fit."""
    devices = _transfer_devices(runner.device)
    with TransferBench(runner.model_config, runner.dtype, block_size, _TRANSFER_BLOCKS, devices, seed) as bench:
        return bench.transport, fit_transfer(measure_transfer(bench, num_rounds))


def _measure_steps(
    bench: StepBench, grid: list[Case], budget_s: float, is_gpu: bool, seed: int, progress: Progress
) -> dict[Case, list[float]]:
    """Rounds over all cases, each in another order, so that a machine that slows down for a while slows no case in particular."""
    rng = random.Random(seed)
    for case in sorted(grid, key=lambda case: case.features.num_tokens)[: None if is_gpu else _NUM_CPU_WARM_UPS]:
        bench.step_ms(case)
    times: dict[Case, list[float]] = {case: [] for case in grid}
    begun, num_rounds = time.perf_counter(), 0
    while True:
        for case in rng.sample(grid, len(grid)):
            times[case].append(bench.step_ms(case))
            elapsed = time.perf_counter() - begun
            progress(f"steps, round {num_rounds + 1}", min(0.9, 0.05 + 0.85 * elapsed / budget_s))
        num_rounds += 1
        if num_rounds >= _MIN_ROUNDS and (time.perf_counter() - begun) * (num_rounds + 1) / num_rounds > budget_s:
            return times


def held_out_errors(times: dict[Case, list[float]], sizes: tuple[int, ...], seed: int = 0) -> dict[str, float]:
    """Relative errors against the medians of cases that the fit has not seen, a fifth of them at a time."""
    order = random.Random(seed).sample(list(times), len(times))
    errors: dict[str, list[float]] = {"all": []}
    for fold in range(_NUM_FOLDS):
        held_out = order[fold::_NUM_FOLDS]
        model = _fit_without(times, set(held_out), sizes)
        for case in held_out:
            error = abs(model.predict_ms(case.features) / median(times[case]) - 1.0)
            errors["all"].append(error)
            errors.setdefault(case.features.kind, []).append(error)
    return {kind: median(values) for kind, values in errors.items()}


def _fit_without(times: dict[Case, list[float]], held_out: set[Case], sizes: tuple[int, ...]) -> StepModel:
    samples = [StepSample(case.features, ms) for case, values in times.items() if case not in held_out for ms in values]
    return fit_step_model(samples, sizes, num_folds=1)


def _spread(times: dict[Case, list[float]]) -> float:
    def relative(values: Sequence[float]) -> float:
        deciles = quantiles(values, n=10, method="inclusive")
        return (deciles[-1] - deciles[0]) / median(values)

    return median(relative(values) for values in times.values())


def _timing(device: torch.device) -> str:
    if device.type == "cuda":
        return "device time"
    return "CPU time of the one thread" if torch.get_num_threads() == 1 else "wall time"


def _transfer_devices(device: torch.device) -> tuple[str, str]:
    """The device twice, or with a second GPU where there is one."""
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        return str(device), f"cuda:{(device.index + 1) % torch.cuda.device_count()}"
    return str(device), str(device)


def _worker_blocks(config: EngineConfig, runner: ModelRunner) -> int:
    """Blocks of the pool a worker alone on the device would have."""
    cache = CacheConfig(config.cache.block_size, config.cache.num_blocks, config.cache.memory_fraction)
    scheduler = config.scheduler
    return size_pool(
        runner.model_config,
        cache,
        runner.dtype,
        runner.device,
        max_useful_tokens=scheduler.max_num_seqs * (config.max_model_len or runner.model_config.max_position),
        max_step_tokens=scheduler.max_num_batched_tokens,
    )
