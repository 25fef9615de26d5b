"""Steps that nobody looks at one by one: the outcome is the one of stepping, to the last bit."""

import msgspec
import pytest

from nanopd.config import ClusterConfig, SchedulerConfig, Topology
from nanopd.cost_model import HardwareProfile, StepModel
from nanopd.request import Strategy
from nanopd.router import build
from nanopd.simulator import Simulation, SimulationConfig, SimulationResult
from nanopd.workload import RequestSpec, named_workload

CASES = {
    "chat": ("sharegpt", "poisson", "3C", "adaptive", 6.0),
    "all at once": ("sharegpt", "static", "2C", "least-work", 1.0),
    "hand-offs": ("mixed", "poisson", "1P+2D", "disaggregated", 3.0),
    "hand-offs in bursts": ("sharegpt", "bursty", "2P+2D", "disaggregated", 8.0),
    "agents": ("agentic", "poisson", "2C", "adaptive", 2.0),
    "mixed objectives": ("mixed-slo", "poisson", "2C", "taichi", 1.0),
}


def play(
    profile: HardwareProfile, case: str, fast_forward: bool, overlap_host: bool = True
) -> tuple[SimulationResult, dict, int]:
    shape, arrivals, workers, policy, rate = CASES[case]
    strategy = Strategy.DISAGGREGATED if policy == "disaggregated" else Strategy.ADAPTIVE
    router = build(profile.kv_bytes_per_token, "cuda", "fixed" if policy == "disaggregated" else policy, profile)
    cluster = ClusterConfig(topology=Topology.parse(workers), strategy=strategy)
    config = SimulationConfig(cluster, SchedulerConfig(max_num_seqs=16), overlap_host, fast_forward)
    simulation = Simulation(profile, router, config)
    result = simulation.run(named_workload(shape, arrivals, rate, count=40, seed=7))
    for worker in simulation.workers.values():
        worker.engine.scheduler.check()
    stats = {worker_id: worker.engine.stats() for worker_id, worker in simulation.workers.items()}
    return result, stats, simulation.events.num_run


def assert_same(profile: HardwareProfile, case: str, overlap_host: bool = True) -> tuple[int, int]:
    fast, fast_stats, num_fast = play(profile, case, True, overlap_host)
    slow, slow_stats, num_slow = play(profile, case, False, overlap_host)
    assert fast.records == slow.records
    assert fast.busy == slow.busy
    assert fast_stats == slow_stats
    return num_fast, num_slow


@pytest.mark.parametrize("case", CASES)
def test_the_outcome_is_that_of_stepping(profile: HardwareProfile, case: str) -> None:
    """The fixture's times are round, so that things happen at the same moment."""
    num_fast, num_slow = assert_same(profile, case)
    assert num_fast < 0.7 * num_slow


@pytest.mark.parametrize("case", ["chat", "hand-offs"])
def test_also_without_pipelining(profile: HardwareProfile, case: str) -> None:
    num_fast, num_slow = assert_same(msgspec.structs.replace(profile, host_overhead_ms=0.0), case, overlap_host=False)
    assert num_fast < 0.7 * num_slow


@pytest.mark.parametrize("case", ["chat", "hand-offs in bursts", "agents"])
def test_also_where_blocks_are_scarce(profile: HardwareProfile, case: str) -> None:
    num_blocks = 1700 if case == "agents" else 150
    small = msgspec.structs.replace(profile, num_blocks=num_blocks, max_model_len=num_blocks * profile.block_size)
    assert_same(small, case)


def test_also_where_the_host_is_slow_to_launch(profile: HardwareProfile) -> None:
    slow = StepModel(msgspec.structs.replace(profile.step.terms, launch_ms=14.0))
    assert_same(msgspec.structs.replace(profile, step=slow), "chat")


def test_a_launch_hides_behind_the_step_before(profile: HardwareProfile) -> None:
    """Round times: a decode step takes 10 ms, a chunk of 101 tokens 11 ms, its launch 30 ms of the host."""
    slow = StepModel(msgspec.structs.replace(profile.step.terms, launch_ms=30.0))
    profile = msgspec.structs.replace(profile, step=slow)
    cluster = ClusterConfig(topology=Topology.parse("1C"))
    simulation = Simulation(profile, build(1000, policy="least-work"), SimulationConfig(cluster))
    specs = [RequestSpec(0.0, 101, 20, 32), RequestSpec(0.055, 101, 2, 8)]
    second, first = simulation.run(specs).records
    # First: launched by 30. Decodes end at 40, 50, 60, 70 ... Second comes at 55: at 60 its chunk is launched, behind the decode that ends at 70.
    assert first.ttft_ms == pytest.approx(30.0)
    assert second.ttft_ms == pytest.approx(60.0 + 30.0 - 55.0)
