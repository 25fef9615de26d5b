"""Time to the first token from the client's clock, one request at a time: disaggregated beside collocated on the same cluster, and where it goes."""

import asyncio
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.transfer.setting import DTYPE, Note, Setting, random_prompt
from nanopd.config import CacheConfig, ClusterConfig, EngineConfig, SchedulerConfig, Topology
from nanopd.request import Request, SamplingParams, Strategy
from nanopd.runtime.controller import Controller
from nanopd.tracing.logs import WorkerLog, read_logs

PATHS = (Strategy.DISAGGREGATED, Strategy.COLLOCATED)
_NUM_OUTPUT_TOKENS = 16


def measure_ttft(setting: Setting, note: Note) -> None:
    """One prefill and one decode worker, as processes: on two devices, or sharing one."""
    shared = setting.devices[0] == setting.devices[1]
    engine = EngineConfig(
        setting.model,
        dtype=DTYPE,
        device=setting.devices[0] if shared else "cuda",
        load_format=setting.load_format,
        cuda_graphs=setting.cuda_graphs,
        max_model_len=max(setting.prompts) + 64,
        scheduler=SchedulerConfig(max_num_seqs=8),
        cache=CacheConfig(enable_prefix_cache=False, num_blocks=2 * max(setting.prompts) // setting.block_size + 64),
    )
    cluster = ClusterConfig(topology=Topology.parse("1P+1D"), startup_timeout_s=150.0)
    with tempfile.TemporaryDirectory() as traces:
        controller = Controller(replace(engine, trace_dir=traces), cluster)
        served = asyncio.run(_serve_in_turn(controller, setting, note))
        logs, _ = read_logs(Path(traces))
    for num_tokens in setting.prompts:
        for path in PATHS:
            columns = [
                _parts(request, logs) for request in served if (request.path, request.num_tokens) == (path, num_tokens)
            ]
            medians = {f"{name}_ms": round(median(c[name] for c in columns) * 1e3, 2) for name in columns[0]}
            note(what="ttft parts", tokens=num_tokens, path=path.value, **medians)


@dataclass(frozen=True, slots=True)
class Served:
    """A request and when, on the host's monotonic clock, its client saw what."""

    request_id: str
    path: Strategy
    num_tokens: int
    sent: float
    stamps: list[float]
    exposed_ms: float


def _parts(request: Served, logs: list[WorkerLog]) -> dict[str, float]:
    """Seconds of each leg of the way to the first and to the second token."""
    steps = sorted(
        (step for log in logs for step in log.steps if f"{request.request_id}#0" in step.request_ids),
        key=lambda step: step.began,
    )
    prefills = [step for step in steps if step.num_prefills]
    decode = next(step for step in steps if step.num_decodes)
    pushes = [push.ended for log in logs for push in log.pushes if push.push_id.startswith(f"{request.request_id}#0/")]
    computed = prefills[-1].landed
    return {
        "to_first_step": prefills[0].began - request.sent,
        "prefill": computed - prefills[0].began,
        "first_to_client": request.stamps[0] - computed,
        "last_push_ended": max(pushes, default=computed) - computed,
        "decode_began": decode.began - computed,
        "decode_step": decode.landed - decode.began,
        "second_to_client": request.stamps[1] - decode.landed,
    }


async def _serve_in_turn(controller: Controller, setting: Setting, note: Note) -> list[Served]:
    rng = random.Random(0)
    began = time.perf_counter()
    await controller.start()
    note(what="startup", seconds=round(time.perf_counter() - began, 1))
    vocab_size = controller.model_config.vocab_size
    all_served: list[Served] = []
    for num_tokens in setting.prompts:
        times: dict[str, list[list[float]]] = {path: [] for path in PATHS}
        for i in range(setting.rounds_of(num_tokens) + 1):
            for path in PATHS if i % 2 else reversed(PATHS):
                prompt = random_prompt(rng, vocab_size, num_tokens)
                served = await _serve(controller, f"{path}-{num_tokens}-{i}", prompt, path)
                if i:  # the first warms up
                    all_served.append(served)
                    first, second = ((stamp - served.sent) * 1e3 for stamp in served.stamps[:2])
                    times[path].append([round(ms, 3) for ms in (first, second - first, served.exposed_ms)])
        pushed, alone = ([median(column) for column in zip(*times[path], strict=True)] for path in PATHS)
        note(
            what="ttft",
            tokens=num_tokens,
            disaggregated_ms=round(pushed[0], 2),
            collocated_ms=round(alone[0], 2),
            ratio=round(pushed[0] / alone[0], 3),
            second_token_disaggregated_ms=round(pushed[1], 2),
            second_token_collocated_ms=round(alone[1], 2),
            exposed_ms=round(pushed[2], 2),
        )
        note(what="raw", of=f"ttft {num_tokens}", **{path.value: times[path] for path in PATHS})
    await controller.stop()
    return all_served


async def _serve(controller: Controller, request_id: str, prompt: tuple[int, ...], path: Strategy) -> Served:
    params = SamplingParams(max_tokens=_NUM_OUTPUT_TOKENS, temperature=0.0, ignore_eos=True)
    sent, stamps = time.monotonic(), []
    stream = controller.submit(Request(request_id, prompt, params, strategy=path))
    async for _ in stream:
        stamps.append(time.monotonic())
    assert stream.finish is not None and stream.finish.report is not None, stream.finish
    assert stream.finish.error is None, stream.finish.error
    report = stream.finish.report
    assert report.decision.chosen.path == path.value and report.num_attempts == 1
    return Served(request_id, path, len(prompt), sent, stamps, report.transfer_exposed_ms)
