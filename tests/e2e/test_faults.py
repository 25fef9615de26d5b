"""Workers killed in the middle of requests, hand-offs that go wrong, a controller that dies: no stream notices, nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.live_cluster import REFERENCE, LiveCluster, assert_follows_reference

from nanopd.config import CacheConfig, ClusterConfig, EngineConfig, Topology
from nanopd.kv_transfer.fault_proxy import FaultPlan, FaultySender
from nanopd.request import FinishReason, Request, SamplingParams, Strategy
from nanopd.runtime.clock import WallClock
from nanopd.runtime.launcher import InProcessLauncher
from nanopd.workers.process import build_parts

pytestmark = pytest.mark.e2e

# No prefix cache: a second run of the same prompts takes as long as the first, so that the blow falls in the middle.
ENGINE = EngineConfig(
    device="cpu", dtype="float32", max_model_len=1024, cache=CacheConfig(num_blocks=256, enable_prefix_cache=False)
)
CLUSTER = ClusterConfig(topology=Topology.parse("1C+1P+1D"), strategy=Strategy.DISAGGREGATED, heartbeat_interval_s=0.1)
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def live() -> Iterator[LiveCluster]:
    with LiveCluster(ENGINE, CLUSTER) as cluster:
        yield cluster


def twenty_requests(key: str) -> list[Request]:
    """The reference's twelve prompts, greedy, and eight of them again with a seed."""
    greedy = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    params = [greedy] * 12 + [
        SamplingParams(max_tokens=NUM_TOKENS, temperature=0.8, seed=i, ignore_eos=True) for i in range(8)
    ]
    return [
        Request(f"{key}-{i}", tuple(REFERENCE[i % 12]["prompt_ids"]), sampling) for i, sampling in enumerate(params)
    ]


@pytest.fixture(scope="module")
def undisturbed(live: LiveCluster) -> list[list[int]]:
    answers = live.generate(twenty_requests("undisturbed"))
    for case, answer in zip(REFERENCE, answers, strict=False):
        assert_follows_reference(answer.tokens, case)
    return [answer.tokens for answer in answers]


@pytest.mark.parametrize(("victim", "num_tokens"), [("prefill-0", 3), ("decode-0", 150)])
def test_a_killed_worker_costs_nobody_a_token(
    live: LiveCluster, undisturbed: list[list[int]], victim: str, num_tokens: int
) -> None:
    before = live.snapshot().counters.output_tokens
    killed = live.controller.worker_pids()[victim]

    def strike() -> None:
        live.until(lambda snapshot: snapshot.counters.output_tokens - before >= num_tokens)
        os.kill(killed, signal.SIGKILL)

    answers = live.generate(twenty_requests(victim), disturb=strike)
    assert [answer.tokens for answer in answers] == undisturbed
    assert {answer.finish.reason for answer in answers} == {FinishReason.LENGTH}
    assert any(answer.finish.report.num_attempts > 1 for answer in answers), "the blow fell too late to matter"
    live.until_nothing_is_held()  # waits for the next life of the victim, too
    assert {worker.worker_id: worker.incarnation for worker in live.snapshot().workers}[victim] == 1
    assert live.controller.worker_pids()[victim] != killed
    assert not os.path.exists(f"/proc/{killed}")
    assert_nothing_in_shared_memory()
    (late,) = live.generate([twenty_requests(f"after-{victim}")[0]])
    assert late.tokens == undisturbed[0] and late.finish.report.decision.chosen.path == "disaggregated"


def test_faulty_transfers_cost_nobody_a_token(undisturbed: list[list[int]]) -> None:
    """The real model on threads, behind senders that fail, delay, drop, repeat and corrupt pushes; checksums find the corruption."""
    plan = FaultPlan(fail=0.1, delay=0.2, drop=0.1, duplicate=0.2, corrupt=0.1, delay_s=0.05, seed=7)
    senders: list[FaultySender] = []

    def wrap(sender):
        senders.append(FaultySender(sender, plan, WallClock()))
        return senders[-1]

    engine = replace(ENGINE, verify_transfers=True)
    cluster = replace(CLUSTER, topology=Topology.parse("1P+1D"), push_timeout_s=1.0)
    with LiveCluster(engine, cluster, InProcessLauncher(partial(build_parts, wrap_sender=wrap))) as live:
        answers = live.generate(twenty_requests("faulty"))
        assert [answer.tokens for answer in answers] == undisturbed
        counts = {
            name: sum(sender.counts.get(name, 0) for sender in senders)
            for name in ("fail", "drop", "corrupt", "duplicate", "delay")
        }
        assert all(counts.values()), counts
        live.until_nothing_is_held()


CONTROLLER = """
import asyncio, json
from nanopd.config import CacheConfig, ClusterConfig, EngineConfig, Topology
from nanopd.runtime.controller import Controller

async def main():
    engine = EngineConfig(device="cpu", load_format="dummy", max_model_len=256, cache=CacheConfig(num_blocks=32))
    controller = Controller(engine, ClusterConfig(topology=Topology.parse("1P+1D")))
    await controller.start()
    print(json.dumps(list(controller.worker_pids().values())), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_workers_die_with_their_controller(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", CONTROLLER], stdout=subprocess.PIPE, env=environment) as controller:
        assert controller.stdout is not None
        pids = json.loads(controller.stdout.readline())
        assert len(pids) == 2 and all(os.path.exists(f"/proc/{pid}") for pid in pids)
        controller.kill()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlived their controller"
        time.sleep(0.02)
    assert_nothing_in_shared_memory()


def is_running(pid: int) -> bool:
    """A zombie that nobody has waited for yet is not running."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_nothing_in_shared_memory() -> None:
    assert not [name for name in os.listdir("/dev/shm") if "nanopd" in name]
