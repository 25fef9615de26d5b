"""The real model in worker processes: the same tokens on every path, and every block back whenever a request is aborted."""

from collections.abc import Iterator

import pytest
from support.live_cluster import REFERENCE, LiveCluster, assert_follows_reference

from nanopd.config import CacheConfig, ClusterConfig, EngineConfig, SchedulerConfig, Topology
from nanopd.request import FinishReason, Request, SamplingParams, Strategy
from nanopd.runtime.stream import RequestStream

pytestmark = pytest.mark.e2e

TOPOLOGY = Topology.parse("1C+1P+1D")
NUM_BLOCKS = 256


@pytest.fixture(scope="module")
def live() -> Iterator[LiveCluster]:
    engine = EngineConfig(device="cpu", dtype="float32", max_model_len=1024, cache=CacheConfig(num_blocks=NUM_BLOCKS))
    with LiveCluster(engine, ClusterConfig(topology=TOPOLOGY, heartbeat_interval_s=0.1)) as cluster:
        yield cluster


def greedy(case_index: int, strategy: Strategy, max_tokens: int = 64, key: str = "") -> Request:
    prompt = tuple(REFERENCE[case_index]["prompt_ids"])
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return Request(f"{key or strategy}-{case_index}", prompt, params, strategy=strategy)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_greedy_tokens_follow_the_reference_on_every_path(live: LiveCluster, strategy: Strategy) -> None:
    before = live.snapshot().counters.handoffs
    answers = live.generate([greedy(i, strategy) for i in range(len(REFERENCE))])
    for case, answer in zip(REFERENCE, answers, strict=True):
        assert answer.finish.reason is FinishReason.LENGTH and len(answer.tokens) == 64
        assert_follows_reference(answer.tokens, case)
        report = answer.finish.report
        assert report is not None
        if strategy is not Strategy.ADAPTIVE:
            assert report.decision.chosen.path == strategy.value
        if strategy is Strategy.DISAGGREGATED:
            assert report.transport == "shared_memory" and report.transfer_bytes > 0
    if strategy is Strategy.DISAGGREGATED:
        assert live.snapshot().counters.handoffs - before == len(REFERENCE)
    live.until_nothing_is_held()


def test_a_seed_draws_the_same_tokens_on_every_path(live: LiveCluster) -> None:
    def request(seed: int, strategy: Strategy) -> Request:
        params = SamplingParams(
            max_tokens=32, temperature=0.9, top_p=0.95, top_k=50, seed=seed, repetition_penalty=1.1, ignore_eos=True
        )
        return Request(f"s{seed}-{strategy}", tuple(REFERENCE[seed]["prompt_ids"]), params, strategy=strategy)

    answers = {strategy: live.generate([request(seed, strategy) for seed in range(6)]) for strategy in Strategy}
    tokens = {strategy: [answer.tokens for answer in found] for strategy, found in answers.items()}
    assert tokens[Strategy.COLLOCATED] == tokens[Strategy.DISAGGREGATED] == tokens[Strategy.ADAPTIVE]
    assert all(len(found) == 32 for found in tokens[Strategy.COLLOCATED])
    greedy_tokens = [case["output_ids"][:32] for case in REFERENCE[:6]]
    assert tokens[Strategy.COLLOCATED] != greedy_tokens


def test_the_end_of_sequence_token_stops_both_paths(live: LiveCluster) -> None:
    case = REFERENCE[0]
    end = case["output_ids"][case["first_eos_index"]]
    for strategy in (Strategy.COLLOCATED, Strategy.DISAGGREGATED):
        params = SamplingParams(max_tokens=64, temperature=0.0)
        request = Request(f"eos-{strategy}", tuple(case["prompt_ids"]), params, strategy=strategy, eos_token_ids=(end,))
        (answer,) = live.generate([request])
        assert answer.finish.reason is FinishReason.STOP
        assert answer.tokens == case["output_ids"][: case["first_eos_index"] + 1]


def long_request(key: str, strategy: Strategy) -> Request:
    """A prompt no prefix cache knows yet, long enough to be caught in the middle."""
    offset = sum(map(ord, key))
    prompt = tuple(1000 + (offset + 37 * i) % 20000 for i in range(600))
    return Request(key, prompt, SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True), strategy=strategy)


@pytest.mark.parametrize(
    ("strategy", "state", "num_tokens"),
    [
        (Strategy.COLLOCATED, "local", 0),
        (Strategy.COLLOCATED, "local", 3),
        (Strategy.DISAGGREGATED, "prefilling", 0),
        (Strategy.DISAGGREGATED, "prefilling", 1),  # the first token is out, the push may still be under way
        (Strategy.DISAGGREGATED, "decoding", 3),
    ],
)
def test_an_abort_returns_every_block_on_both_sides(
    live: LiveCluster, strategy: Strategy, state: str, num_tokens: int
) -> None:
    async def submit_and_abort() -> RequestStream:
        stream = live.controller.submit(long_request(f"abort-{strategy}-{state}-{num_tokens}", strategy))
        for _ in range(num_tokens):
            await anext(stream)
        return stream

    stream = live.run(submit_and_abort())
    if num_tokens == 0:
        live.until(lambda snapshot: snapshot.requests[0].state == state)
    live.call(lambda: live.controller.abort(stream.request.request_id))
    ended = live.run(read_rest(stream))
    assert ended.finish is not None and ended.finish.reason is FinishReason.ABORT
    live.until_nothing_is_held()


async def read_rest(stream: RequestStream) -> RequestStream:
    async for _ in stream:
        pass
    return stream


def test_an_abort_while_queued_or_reserving_returns_every_block(live: LiveCluster) -> None:
    """So many requests that the pools cannot hold them: some wait for blocks at the prefill, some at the decode worker."""
    requests = [long_request(f"many-{strategy}-{i}", strategy) for strategy in Strategy for i in range(6)]

    async def submit() -> list[RequestStream]:
        return [live.controller.submit(request) for request in requests]

    streams = live.run(submit())
    live.until(lambda snapshot: any(request.state == "reserving" for request in snapshot.requests))
    live.until(lambda snapshot: sum(worker.stats.num_waiting for worker in snapshot.workers) > 0)
    for stream in streams:
        live.call(lambda stream=stream: live.controller.abort(stream.request.request_id))
        assert live.run(read_rest(stream)).finish.reason is FinishReason.ABORT
    live.until_nothing_is_held()


@pytest.mark.slow
@pytest.mark.parametrize("enable_prefix_cache", [True, False])
@pytest.mark.parametrize(("chunk_size", "block_size"), [(1, 8), (7, 16), (16, 32), (64, 8), (None, 16), (7, 32)])
def test_chunk_and_block_sizes_change_no_token(
    chunk_size: int | None, block_size: int, enable_prefix_cache: bool
) -> None:
    engine = EngineConfig(
        device="cpu",
        dtype="float32",
        max_model_len=1024,
        cache=CacheConfig(block_size, NUM_BLOCKS * 16 // block_size, enable_prefix_cache=enable_prefix_cache),
        scheduler=SchedulerConfig(prefill_chunk_size=chunk_size),
    )
    with LiveCluster(engine, ClusterConfig(topology=TOPOLOGY)) as live:
        for strategy in Strategy:
            answers = live.generate([greedy(i, strategy) for i in range(len(REFERENCE))])
            for case, answer in zip(REFERENCE, answers, strict=True):
                assert_follows_reference(answer.tokens, case)
        live.until_nothing_is_held()
