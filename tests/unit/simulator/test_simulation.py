"""The simulated cluster, against times worked out by hand and against its own invariants."""

import subprocess
import sys

import msgspec
import pytest

from nanopd.config import ClusterConfig, Topology
from nanopd.errors import ConfigError
from nanopd.request import FinishReason, Slo, Strategy
from nanopd.router import build
from nanopd.simulator import ARMS, Simulation, SimulationConfig, capacity, simulate
from nanopd.workload import RequestSpec, named_workload


def spec(
    arrival_s: float = 0.0, num_prompt: int = 101, num_output: int = 3, max_tokens: int = 8, **more
) -> RequestSpec:
    return RequestSpec(arrival_s, num_prompt, num_output, max_tokens, **more)


def test_refused_requests_are_counted_and_take_no_time(profile) -> None:
    specs = named_workload("long", "static", 1.0, count=60, slo=Slo(300.0, 60.0), seed=1)
    served, refusing = (simulate(profile, "2C", "adaptive", specs, rejects_hopeless=flag) for flag in (False, True))
    assert served.num_refused == 0 and refusing.num_refused > 10
    assert len(refusing.records) == len(specs) and refusing.elapsed_s < served.elapsed_s
    for record in refusing.records:
        assert (record.reason is FinishReason.REFUSED) == (record.num_output_tokens == 0)
        assert record.meets() is False or record.reason is not FinishReason.REFUSED


def test_import_leaves_torch_out() -> None:
    code = "import sys, nanopd.simulator; sys.exit(any(name in sys.modules for name in ('torch', 'zmq', 'asyncio')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_request_takes_what_its_steps_take(profile) -> None:
    (record,) = simulate(profile, "1C", "least-work", [spec()]).records
    assert record.ttft_ms == pytest.approx(11.0)  # 101 tokens in one step
    assert record.tpot_ms == pytest.approx(10.0)
    assert record.e2e_ms == pytest.approx(31.0)
    assert (record.num_output_tokens, record.reason, record.path) == (3, FinishReason.STOP, "collocated")


def test_host_time_between_steps_counts_unless_overlapped(profile) -> None:
    (record,) = simulate(profile, "1C", "least-work", [spec()], overlap_host=False).records
    assert record.tpot_ms == pytest.approx(12.0)


def test_a_handoff_waits_for_its_transfer(profile) -> None:
    (record,) = simulate(profile, "1P+1D", "disaggregated", [spec()]).records
    assert record.path == "disaggregated"
    assert record.ttft_ms == pytest.approx(11.0)  # the first token does not wait for the KV
    assert record.transfer_exposed_ms == pytest.approx(113.0)  # 1 ms latency, 7 blocks of 16 ms
    assert record.e2e_ms == pytest.approx(11.0 + 113.0 + 20.0)


def test_two_pushes_share_the_link(profile) -> None:
    records = simulate(profile, "1P+1D", "disaggregated", [spec(num_output=2), spec(num_output=2)]).records
    # Steps end at 11 and 22 ms. The first push is alone from 12 to 23, then each gets half: 101 of 112 ms are left, twice as long.
    assert [record.transfer_exposed_ms for record in records] == pytest.approx([1.0 + 11.0 + 202.0, 1.0 + 202.0 + 11.0])


def test_a_request_cut_by_max_tokens_ends_for_length(profile) -> None:
    (record,) = simulate(profile, "1C", "least-work", [spec(num_output=8, max_tokens=8)]).records
    assert (record.num_output_tokens, record.reason) == (8, FinishReason.STOP)
    assert record.meets(Slo(11.1, 10.1)) and not record.meets(Slo(10.9, None)) and not record.meets(Slo(None, 9.9))


def test_equal_prefixes_are_found(profile) -> None:
    hashes = (7, 8)
    specs = [spec(num_prompt=600, prefix_hashes=hashes), spec(1.0, num_prompt=600, prefix_hashes=hashes)]
    first, second = simulate(profile, "1C", "least-work", specs).records
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens == 592  # all full blocks but what must be computed


@pytest.mark.parametrize("policy", ARMS)
def test_every_request_ends_once_under_every_policy(profile, policy) -> None:
    specs = named_workload("mixed-slo", "poisson", 3.0, count=40, seed=3)
    workers = "2P+2D" if policy != "collocated" else "4C"
    result = simulate(profile, workers, policy, specs)
    assert sorted(record.request_id for record in result.records) == sorted(f"r{i}" for i in range(40))
    by_arrival = {f"r{i}": s for i, s in enumerate(sorted(specs, key=lambda s: s.arrival_s))}
    assert all(record.num_output_tokens == by_arrival[record.request_id].num_output_tokens for record in result.records)


def test_blocks_are_whole_when_all_is_over(profile) -> None:
    config = SimulationConfig(ClusterConfig(topology=Topology.parse("1P+2D"), strategy=Strategy.DISAGGREGATED))
    simulation = Simulation(profile, build(1000, policy="fixed"), config)
    simulation.run(named_workload("mixed", "poisson", 4.0, count=30, seed=1))
    for worker in simulation.workers.values():
        worker.engine.scheduler.check()
        assert worker.engine.stats().num_free_blocks == profile.num_blocks
    assert simulation.central.num_open_legs == 0
    for view in simulation.central.view.workers.values():
        assert (view.num_decoding, view.num_context_tokens, view.num_waiting_prompt_tokens) == (0, 0, 0)


def test_the_same_workload_gives_the_same_result(profile) -> None:
    specs = named_workload("sharegpt", "bursty", 4.0, count=50, seed=2)
    assert simulate(profile, "3C", "adaptive", specs).records == simulate(profile, "3C", "adaptive", specs).records


def test_tight_pool_preempts_and_still_ends(profile) -> None:
    small = msgspec.structs.replace(profile, num_blocks=24)
    specs = [spec(num_prompt=100, num_output=100, max_tokens=128) for _ in range(4)]
    result = simulate(small, "1C", "least-work", specs)
    assert all(record.num_output_tokens == 100 for record in result.records)


def test_capacity_grows_with_workers(profile) -> None:
    specs = [spec()] * 4
    assert capacity(profile, specs, 8) == pytest.approx(4 * capacity(profile, specs, 2))


def test_mistakes_are_named(profile) -> None:
    with pytest.raises(ConfigError, match="policy must be one of .*adaptive.* got 'best'"):
        simulate(profile, "1C", "best", [spec()])
    with pytest.raises(ConfigError, match="at least one request"):
        simulate(profile, "1C", "least-work", [])
