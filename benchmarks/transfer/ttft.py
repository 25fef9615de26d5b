"""Time to the first token from the client's clock, one request at a time: disaggregated beside collocated on the same cluster."""

import asyncio
import random
import time
from statistics import median

from benchmarks.transfer.setting import DTYPE, Note, Setting, random_prompt
from nanopd.config import CacheConfig, ClusterConfig, EngineConfig, SchedulerConfig, Topology
from nanopd.request import Request, SamplingParams, Strategy
from nanopd.runtime.controller import Controller

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
    asyncio.run(_serve_in_turn(Controller(engine, cluster), setting, note))


async def _serve_in_turn(controller: Controller, setting: Setting, note: Note) -> None:
    rng = random.Random(0)
    began = time.perf_counter()
    await controller.start()
    note(what="startup", seconds=round(time.perf_counter() - began, 1))
    vocab_size = controller.model_config.vocab_size
    for num_tokens in setting.prompts:
        times: dict[str, list[list[float]]] = {path: [] for path in PATHS}
        for i in range(setting.rounds_of(num_tokens) + 1):
            for path in PATHS if i % 2 else reversed(PATHS):
                prompt = random_prompt(rng, vocab_size, num_tokens)
                row = await _serve(controller, f"{path}-{num_tokens}-{i}", prompt, path)
                if i:  # the first warms up
                    times[path].append(row)
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


async def _serve(controller: Controller, request_id: str, prompt: tuple[int, ...], path: Strategy) -> list[float]:
    """Milliseconds to the first token, from it to the second, exposed by the hand-off."""
    params = SamplingParams(max_tokens=_NUM_OUTPUT_TOKENS, temperature=0.0, ignore_eos=True)
    sent, stamps = time.perf_counter(), []
    stream = controller.submit(Request(request_id, prompt, params, strategy=path))
    async for _ in stream:
        stamps.append((time.perf_counter() - sent) * 1e3)
    assert stream.finish is not None and stream.finish.report is not None, stream.finish
    assert stream.finish.error is None, stream.finish.error
    report = stream.finish.report
    assert report.decision.chosen.path == path.value and report.num_attempts == 1
    return [round(ms, 3) for ms in (stamps[0], stamps[1] - stamps[0], report.transfer_exposed_ms)]
