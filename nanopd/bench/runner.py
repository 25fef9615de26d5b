"""Arms x loads -> cells. Arms take turns, never run side by side, and all get the same loads."""

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import httpx

from nanopd.bench.arm import Arm
from nanopd.bench.cell import Cell
from nanopd.bench.client import Exchange, Target, probe, request_body
from nanopd.bench.drive import closed_loop, open_loop
from nanopd.bench.energy import EnergyMeter
from nanopd.bench.engine_process import EngineProcess
from nanopd.bench.load import Load
from nanopd.bench.progress import Progress
from nanopd.errors import ConfigError
from nanopd.workload import token_ids

_WARM_UP_SEED = 1 << 40  # prompts that no load has
_SILENCE = httpx.Timeout(600.0, connect=30.0)  # seconds without a byte, after which a request has failed


@dataclass(frozen=True, slots=True)
class Connection:
    """How to talk to the engines."""

    model: str | None = None  # None: the first that the engine lists
    api_key: str | None = None
    vocab_size: int = 32_000  # prompts are ids below it; every common vocabulary is larger
    num_warm_up: int = 4  # requests before each measurement, not counted


def run(
    arms: Sequence[Arm], loads: Sequence[Load], connection: Connection, progress: Progress, repeats: int = 1
) -> Iterator[Cell]:
    """Every load on every arm, ``repeats`` times over; a repeat starts the engines anew."""
    for repeat in range(repeats):
        for arm in arms:
            progress.say(f"{arm.name}: {arm.description}")
            with open_arm(arm, connection) as target:
                for load in loads:
                    yield measure(arm, target, load, connection, progress, repeat)


@contextmanager
def open_arm(arm: Arm, connection: Connection) -> Iterator[Target]:
    """The arm's engine, running. Raises WorkerError, RequestFailedError, ConfigError."""
    if arm.base_url is None:
        with EngineProcess(arm.serve_options) as engine:
            yield probe(engine.base_url, connection.model, connection.api_key)
        return
    target = probe(arm.base_url, connection.model, connection.api_key)
    if target.num_workers not in (None, arm.num_workers):
        raise ConfigError(
            f"arm {arm.name} was said to have {arm.num_workers} workers, its server has {target.num_workers}"
        )
    yield target


def measure(arm: Arm, target: Target, load: Load, connection: Connection, progress: Progress, repeat: int = 0) -> Cell:
    """One cell."""
    bodies = [
        request_body(target, spec, token_ids(spec, connection.vocab_size, load.prompt_seed), load.stream)
        for spec in load.specs
    ]
    warm_up = [
        request_body(
            target, spec, token_ids(spec, connection.vocab_size, load.prompt_seed + _WARM_UP_SEED), load.stream
        )
        for spec in load.specs[: connection.num_warm_up]
    ]
    with progress.cell(f"{arm.name} · {load.label}", len(load.specs)):
        return asyncio.run(_measure(arm, target, load, bodies, warm_up, progress, repeat))


async def _measure(
    arm: Arm,
    target: Target,
    load: Load,
    bodies: Sequence[bytes],
    warm_up: Sequence[bytes],
    progress: Progress,
    repeat: int,
) -> Cell:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=target.base_url, headers=target.headers, timeout=_SILENCE, limits=limits, trust_env=False
    ) as client:
        warming = [Exchange(index, load.specs[index], time.perf_counter()) for index in range(len(warm_up))]
        await asyncio.gather(*(exchange.run(client, body) for exchange, body in zip(warming, warm_up, strict=True)))

        async def send(exchange: Exchange) -> None:
            progress.sent()
            await exchange.run(client, bodies[exchange.index])
            progress.ended(exchange.outcome)

        meter = EnergyMeter.open(arm.num_workers) if _may_use_our_gpus(arm, target) else None
        gc.collect()
        joules = meter.joules() if meter is not None else 0.0
        started, cpu_started = time.perf_counter(), time.process_time()
        if load.concurrency is not None:
            origin, exchanges = await closed_loop(load.specs, send, load.concurrency)
        else:
            origin, exchanges = await open_loop(load.specs, send, load.warmup_s + load.window_s, load.drain_s)
        ended, cpu_ended = time.perf_counter(), time.process_time()
        energy_j = meter.joules() - joules if meter is not None else None
    end_s = ended - origin if load.concurrency is not None else load.warmup_s + load.window_s
    return Cell(
        arm=arm.name,
        workload=load.workload,
        window_start_s=load.warmup_s,
        window_end_s=end_s,
        elapsed_s=ended - origin,
        client_utilisation=(cpu_ended - cpu_started) / (ended - started),
        samples=tuple(exchange.sample(origin) for exchange in exchanges),
        rate=load.rate,
        concurrency=load.concurrency,
        repeat=repeat,
        energy_j=energy_j,
    )


def _may_use_our_gpus(arm: Arm, target: Target) -> bool:
    """Whether the engine runs on this machine, and was not told to stay on its CPU."""
    is_here = httpx.URL(target.base_url).host in ("127.0.0.1", "localhost", "::1")
    return is_here and ("--device", "cpu") not in pairwise(arm.serve_options)
