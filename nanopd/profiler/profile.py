"""One device from end to end: measure, fit, say how well the fit predicts what it has not seen."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

import torch
from msgspec import structs

from nanopd.config import EngineConfig
from nanopd.config.model import DTYPE_BYTES
from nanopd.cost_model import (
    HardwareProfile,
    Ladders,
    StepFeatures,
    StepModel,
    StepSample,
    TransferModel,
    fit_step_model,
)
from nanopd.kv_cache import size_pool
from nanopd.model_runner import ModelRunner
from nanopd.model_runner.device import resolve_device
from nanopd.model_runner.graphs import ladder
from nanopd.model_runner.step_graphs import token_ladder
from nanopd.profiler.grid import CPU, CPU_QUICK, GPU, GPU_QUICK, Case, Limits, cases
from nanopd.profiler.hardware import hardware_name, read_bandwidth_gb_s
from nanopd.profiler.host import host_step_ms
from nanopd.profiler.points import measurements
from nanopd.profiler.steps import StepBench
from nanopd.profiler.transfer import fit_transfer, measure_transfer

_NUM_FOLDS = 5
_MIN_ROUNDS = 3
_NUM_CPU_WARM_UPS = 4  # a GPU first chooses its kernels for every shape
_CPU_POOL_TOKENS, _GPU_POOL_TOKENS = 12_288, 300_000
_GPU_MIN_SEQS, _GPU_MIN_STEP_TOKENS = 256, 8192  # a GPU is measured this far, whatever its worker's limits
_HOST_BATCH = 8

Progress = Callable[[str, float], None]  # what is being done, the share of all that is done
Times = dict[Case, list[float]]  # milliseconds


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
    """Loads the model, then see ``profile_runner``. ``config``: as the worker's would be."""
    progress("loading the model", 0.0)
    config = measured_config(config)
    runner = load_runner(config, quick=quick)
    return profile_runner(runner, config, budget_s=budget_s, quick=quick, seed=seed, commit=commit, progress=progress)


def measured_config(config: EngineConfig) -> EngineConfig:
    """``config`` with a GPU's steps as large as they are measured."""
    if resolve_device(config.device).type != "cuda":
        return config
    wide = replace(
        config.scheduler,
        max_num_seqs=max(config.scheduler.max_num_seqs, _GPU_MIN_SEQS),
        max_num_batched_tokens=max(config.scheduler.max_num_batched_tokens, _GPU_MIN_STEP_TOKENS),
    )
    return replace(config, scheduler=wide)


def load_runner(config: EngineConfig, *, quick: bool = False) -> ModelRunner:
    """The model with a KV pool just large enough for the grid."""
    pool_tokens = _pool_tokens(config, quick)
    return ModelRunner.load(
        replace(config, cache=replace(config.cache, num_blocks=pool_tokens // config.cache.block_size))
    )


def _pool_tokens(config: EngineConfig, quick: bool) -> int:
    is_gpu = resolve_device(config.device).type == "cuda"
    return (_GPU_POOL_TOKENS if is_gpu else _CPU_POOL_TOKENS) // (4 if quick else 1)


def profile_runner(
    runner: ModelRunner,
    config: EngineConfig,
    *,
    budget_s: float,
    quick: bool = False,
    seed: int = 0,
    commit: str = "",
    progress: Progress = lambda _what, _share: None,
    transfer: TransferModel | None = None,
    min_rounds: int = _MIN_ROUNDS,
    on_round: Callable[[Times], None] = lambda _times: None,
) -> Measured:
    """Measures for about ``budget_s`` seconds (at least ``min_rounds`` over the grid) on a runner of ``load_runner``.

    ``transfer``: of the path between workers, when it is known already; it is not measured then. ``on_round``: sees the times after every round.
    """
    begun = time.perf_counter()
    is_gpu = runner.device.type == "cuda"
    scheduler = config.scheduler
    limits = Limits(
        runner.max_model_len, scheduler.max_num_batched_tokens, scheduler.max_num_seqs, _pool_tokens(config, quick)
    )
    bench = StepBench(runner, seed)
    grid = cases((GPU_QUICK if quick else GPU) if is_gpu else (CPU_QUICK if quick else CPU), limits)
    times = _measure_steps(bench, grid, budget_s, min_rounds, is_gpu, seed, progress, on_round)
    launch_ms = median(bench.launch_times_ms) if bench.launch_times_ms else 0.0
    progress("KV transfer", 0.9)
    transport, pushes = "given", dict[int, list[float]]()
    if transfer is None:
        devices = _transfer_devices(runner.device)
        transport, pushes = measure_transfer(
            runner.model_config, config.cache.block_size, devices, num_rounds=3 if quick else 9, seed=seed
        )
        transfer = fit_transfer(pushes)
    progress("host overhead", 0.95)
    host_ms = host_step_ms(_HOST_BATCH, config.cache.block_size)
    progress("fitting", 0.97)
    ladders = _ladders(config) if is_gpu and config.cuda_graphs else Ladders()
    profile = _fitted(config, runner, times, ladders, launch_ms, transfer, host_ms, commit, seed)
    points = measurements(times, pushes, profile, read_bandwidth_gb_s(runner.device), _weight_bytes(runner))
    profile = structs.replace(profile, measurements=points)
    progress("done", 1.0)
    num_rounds = len(next(iter(times.values())))
    return Measured(profile, transport, num_rounds, _spread(times), bench.share, time.perf_counter() - begun)


def _ladders(config: EngineConfig) -> Ladders:
    """Of the graphs that the runner has."""
    scheduler = config.scheduler
    return Ladders(tuple(ladder(scheduler.max_num_seqs)), tuple(token_ladder(scheduler.max_num_batched_tokens)))


def _weight_bytes(runner: ModelRunner) -> int:
    """That a decode step reads: all but the embedding, of which it reads a few rows (unless it is the output layer too)."""
    model = runner.model_config
    unread = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    return (model.num_parameters - unread) * DTYPE_BYTES[runner.dtype]


def _fitted(
    config: EngineConfig,
    runner: ModelRunner,
    times: Times,
    ladders: Ladders,
    launch_ms: float,
    transfer: TransferModel,
    host_ms: float,
    commit: str,
    seed: int,
) -> HardwareProfile:
    step = fit_step_model([StepSample(case.features, ms) for case, values in times.items() for ms in values], ladders)
    step = StepModel(structs.replace(step.terms, launch_ms=launch_ms))
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
        held_out_errors=held_out_errors(times, ladders, seed),
        samples=tuple(StepSample(case.features, median(values)) for case, values in times.items()),
    )


def _measure_steps(
    bench: StepBench,
    grid: list[Case],
    budget_s: float,
    min_rounds: int,
    is_gpu: bool,
    seed: int,
    progress: Progress,
    on_round: Callable[[Times], None],
) -> Times:
    """Rounds over all cases, each in another order, so that a machine that slows down for a while slows no case in particular."""
    rng = random.Random(seed)
    shapes = {case.features.num_tokens: case for case in sorted(grid, key=lambda case: case.features.num_tokens)}
    for case in list(shapes.values())[: None if is_gpu else _NUM_CPU_WARM_UPS]:
        bench.step_ms(case)
    bench.note_warm()
    times: Times = {case: [] for case in grid}
    begun, num_rounds = time.perf_counter(), 0
    while True:
        for case in rng.sample(grid, len(grid)):
            times[case].append(bench.step_ms(case))
            elapsed = time.perf_counter() - begun
            progress(f"steps, round {num_rounds + 1}", min(0.9, 0.05 + 0.85 * elapsed / budget_s))
        num_rounds += 1
        on_round(times)
        if num_rounds >= min_rounds and (time.perf_counter() - begun) * (num_rounds + 1) / num_rounds > budget_s:
            return times


def held_out_errors(times: Times, ladders: Ladders, seed: int = 0) -> dict[str, float]:
    """Relative errors against the medians of cases that the fit has not seen, a fifth of them at a time."""
    order = random.Random(seed).sample(list(times), len(times))
    errors: dict[str, list[float]] = {"all": []}
    for fold in range(_NUM_FOLDS):
        held_out = order[fold::_NUM_FOLDS]
        model = _fit_without(times, set(held_out), ladders)
        for case in held_out:
            error = abs(model.predict_ms(case.features) / median(times[case]) - 1.0)
            errors["all"].append(error)
            errors.setdefault(case.features.kind, []).append(error)
    return {kind: median(values) for kind, values in errors.items()}


def _fit_without(times: Times, held_out: set[Case], ladders: Ladders) -> StepModel:
    samples = [StepSample(case.features, ms) for case, values in times.items() if case not in held_out for ms in values]
    return fit_step_model(samples, ladders, num_folds=1)


def _spread(times: Times) -> float:
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
    cache, scheduler = config.cache, config.scheduler
    if cache.num_blocks is not None:
        return cache.num_blocks
    most = -(-scheduler.max_num_seqs * (config.max_model_len or runner.model_config.max_position) // cache.block_size)
    left = size_pool(
        runner.model_config, cache, runner.dtype, runner.device, max_step_tokens=scheduler.max_num_batched_tokens
    )
    measuring = runner.kv_cache.num_blocks if runner.device.type == "cuda" else 0  # it counts as used there
    return min(most, left + measuring)
