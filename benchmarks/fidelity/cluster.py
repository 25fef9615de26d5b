"""The real cluster: worker processes behind a controller in this process, fed with the trace as time goes by (wall time)."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from benchmarks.fidelity.rows import Row
from nanopd.config import ClusterConfig, EngineConfig
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.runtime.controller import Controller
from nanopd.workload import RequestSpec, token_ids

_WARM_UP_TOKENS = (300, 8)  # prompt and output of the requests that warm every worker up


async def serve_cluster(
    config: EngineConfig, cluster: ClusterConfig, traces: Sequence[Sequence[RequestSpec]]
) -> AsyncIterator[list[Row]]:
    """For each trace, played one after another, a row for every request in order of arrival, its times counted from the scheduled arrival."""
    controller = Controller(config, cluster)
    await controller.start()
    try:
        vocab_size = controller.model_config.vocab_size
        await asyncio.gather(*(_warm_up(controller, i, vocab_size) for i in range(2 * cluster.topology.num_workers)))
        for number, specs in enumerate(traces):
            yield await _play(controller, f"trace-{number}", specs)
    finally:
        await controller.stop()


async def _play(controller: Controller, name: str, specs: Sequence[RequestSpec]) -> list[Row]:
    prompts = [token_ids(spec, controller.model_config.vocab_size) for spec in specs]
    begun = asyncio.get_running_loop().time()
    jobs = [
        _serve(controller, f"{name}-{index}", spec, prompt, begun)
        for index, (spec, prompt) in enumerate(zip(specs, prompts, strict=True))
    ]
    return list(await asyncio.gather(*jobs))


async def _serve(
    controller: Controller, request_id: str, spec: RequestSpec, prompt: tuple[int, ...], begun: float
) -> Row:
    loop = asyncio.get_running_loop()
    due = begun + spec.arrival_s
    await asyncio.sleep(max(0.0, due - loop.time()))
    times: list[float] = []
    stream = controller.submit(Request(request_id, prompt, _params(spec.num_output_tokens)))
    async for delta in stream:
        times += [loop.time() - due] * len(delta.token_ids)
    assert stream.finish is not None and stream.finish.reason is FinishReason.LENGTH, stream.finish
    return Row.of_times(spec.arrival_s, spec.num_prompt_tokens, times)


async def _warm_up(controller: Controller, index: int, vocab_size: int) -> None:
    num_prompt, num_output = _WARM_UP_TOKENS
    prompt = tuple((index * 7919 + position * 31) % vocab_size for position in range(num_prompt))
    async for _ in controller.submit(Request(f"warm-up-{index}", prompt, _params(num_output))):
        pass


def _params(num_output_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=num_output_tokens, seed=0, ignore_eos=True)
