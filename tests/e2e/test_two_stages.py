"""A prefill and a decode worker on one device: the same tokens as collocated, and none lost whatever the transport does."""

import random
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.live_cluster import LiveCluster
from support.tiny_models import dummy_folder

from nanopd.config import CacheConfig, ClusterConfig, EngineConfig, SchedulerConfig, Topology
from nanopd.kv_transfer.fault_proxy import FaultPlan, FaultySender
from nanopd.request import FinishReason, Request, SamplingParams, Strategy
from nanopd.runtime.clock import WallClock
from nanopd.runtime.launcher import InProcessLauncher
from nanopd.workers.process import build_parts

pytestmark = pytest.mark.e2e

GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
)
TOPOLOGY = Topology.parse("1P+1D")
CLOSE = 1e-3  # log-probabilities this near may change places with the batch a token is computed in


@pytest.fixture(scope="module", params=["cpu", GPU])
def engine(request, tmp_path_factory):
    """float32, so that hardly any token is a close call."""
    return EngineConfig(
        dummy_folder(tmp_path_factory.mktemp("model")),
        dtype="float32",
        device=request.param,
        load_format="dummy",
        max_model_len=256,
        cache=CacheConfig(num_blocks=512, enable_prefix_cache=False),
        scheduler=SchedulerConfig(prefill_chunk_size=48, max_num_seqs=64),
    )


def requests_of(count, key, max_tokens=24):
    rng = random.Random(5)
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, logprobs=2)
    return [
        Request(f"{key}-{i}", tuple(rng.randrange(3, 97) for _ in range(rng.randint(1, 180))), params)
        for i in range(count)
    ]


async def read(stream):
    """Tokens, the gaps between the best two of each, and the end."""
    tokens, gaps = [], []
    async for delta in stream:
        assert delta.first_index == len(tokens), "a token was lost or repeated"
        tokens += delta.token_ids
        gaps += [entry.top[0][1] - entry.top[1][1] for entry in delta.logprobs]
    return tokens, gaps, stream.finish


def serve(live, requests, abort_after=None):
    """Answers of all; ``abort_after``: by request id, the tokens after which its reader aborts."""
    import asyncio

    async def one(request):
        stream = live.controller.submit(request)
        limit = (abort_after or {}).get(request.request_id)
        if limit is not None:
            asyncio.get_running_loop().call_later(limit, live.controller.abort, request.request_id)
        return await read(stream)

    async def all_of_them():
        free = asyncio.Semaphore(96)

        async def bounded(request):
            async with free:
                return await one(request)

        return await asyncio.gather(*map(bounded, requests))

    return live.run(all_of_them(), timeout_s=300)


def assert_same(answers, expected):
    for (tokens, _, _), (known, gaps, _) in zip(answers, expected, strict=True):
        parted = next((i for i, (a, b) in enumerate(zip(tokens, known, strict=False)) if a != b), None)
        assert parted is None or gaps[parted] < CLOSE, f"token {parted} differs by a margin of {gaps[parted]}"


def cluster(strategy, **changes):
    return replace(
        ClusterConfig(topology=TOPOLOGY, strategy=strategy, heartbeat_interval_s=0.1, max_queued_requests=2000),
        **changes,
    )


@pytest.mark.parametrize("transport", ["auto", "peer_to_peer", "pinned_relay", "shared_memory"])
def test_tokens_equal_collocated_ones_over_every_transport(engine, transport):
    if (engine.device == "cpu") != (transport == "shared_memory"):
        pytest.skip(f"{transport} is none of {engine.device}")
    engine = replace(engine, transport=transport, verify_transfers=True)
    with LiveCluster(engine, cluster(Strategy.DISAGGREGATED)) as live:
        answers = serve(live, requests_of(60, "d"))
        snapshot = live.snapshot()
        expected = serve(live, [replace(r, strategy=Strategy.COLLOCATED) for r in requests_of(60, "c")])
        live.until_nothing_is_held()
    assert_same(answers, expected)
    assert snapshot.counters.handoffs == 60
    used = {finish.report.transport for _, _, finish in answers}
    assert used == {transport if transport != "auto" else "peer_to_peer"}
    assert {finish.report.num_attempts for _, _, finish in answers} == {1}


def test_a_thousand_requests_with_aborts_and_faults(engine):
    """None lost, none hung, no block leaked, every token as without faults."""
    plan = FaultPlan(fail=0.02, delay=0.05, drop=0.01, duplicate=0.05, corrupt=0.02, delay_s=0.02, seed=3)
    senders = []

    def wrap(sender):
        senders.append(FaultySender(sender, plan, WallClock()))
        return senders[-1]

    rng = random.Random(11)
    requests = requests_of(1000, "r", max_tokens=16)
    for i, request in enumerate(requests):
        requests[i] = replace(request, strategy=(Strategy.DISAGGREGATED, Strategy.COLLOCATED)[i % 4 == 3])
    aborted = {r.request_id: rng.uniform(0.0, 0.3) for r in rng.sample(requests, 150)}
    engine = replace(engine, verify_transfers=True)
    build = partial(build_parts, wrap_sender=wrap)
    config = cluster(Strategy.DISAGGREGATED, push_timeout_s=1.0)
    with LiveCluster(engine, config, InProcessLauncher(build)) as live:
        answers = serve(live, requests, aborted)
        live.until_nothing_is_held()
    with LiveCluster(engine, cluster(Strategy.DISAGGREGATED)) as live:
        expected = serve(live, requests_of(1000, "q", max_tokens=16))
        live.until_nothing_is_held()
    for request, (tokens, _, finish) in zip(requests, answers, strict=True):
        may_abort = request.request_id in aborted
        assert finish.reason is FinishReason.LENGTH or (may_abort and finish.reason is FinishReason.ABORT), finish
        assert len(tokens) == 16 or may_abort
    assert sum(finish.reason is FinishReason.ABORT for _, _, finish in answers) > 30
    assert_same(answers, expected)
    counts = {name: sum(s.counts.get(name, 0) for s in senders) for name in ("fail", "drop", "corrupt", "duplicate")}
    assert all(counts.values()), counts
