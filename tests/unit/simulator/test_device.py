"""Workers that share a device."""

import pytest

from nanopd.clock import VirtualClock
from nanopd.cost_model import StepTerms, bundled
from nanopd.cost_model.step_model import Table
from nanopd.simulator import simulate
from nanopd.simulator.burst import Burst
from nanopd.simulator.device import DeviceSharing, SharedDevice
from nanopd.simulator.events import EventQueue
from nanopd.workload import named_workload

PROFILE = bundled("h200_qwen3_8b")


def ends_of(sharing: DeviceSharing, steps: list[tuple[float, str, float, bool]]) -> dict[int, float]:
    """``steps``: (when it is launched, worker, seconds, whether it only decodes)."""
    clock, ends = VirtualClock(), dict[int, float]()
    events = EventQueue(clock)
    device = SharedDevice(sharing, events)
    for number, (when, worker, step_s, is_decode) in enumerate(steps):
        on_end = lambda number=number: ends.__setitem__(number, clock.now())  # noqa: E731
        events.at(when, lambda w=worker, s=step_s, d=is_decode, e=on_end: device.run(w, s, d, e))
    while events.run_next():
        pass
    return ends


def test_two_get_half_each_while_both_run() -> None:
    ends = ends_of(DeviceSharing(), [(0.0, "a", 3.0, False), (1.0, "b", 1.0, True)])
    assert ends == pytest.approx({0: 4.0, 1: 3.0})  # b does its second of work from 1 to 3, meanwhile a one of its two


def test_steps_of_one_worker_run_one_after_another() -> None:
    ends = ends_of(DeviceSharing(0.1, 0.1), [(0.0, "a", 2.0, True), (0.5, "a", 1.0, False)])
    assert ends == pytest.approx({0: 2.0, 1: 3.0})


def test_switching_costs_each_its_own() -> None:
    ends = ends_of(DeviceSharing(decode=0.5, prefill=1.0), [(0.0, "a", 1.0, True), (0.0, "b", 1.0, False)])
    assert ends == pytest.approx(
        {0: 2.5, 1: 2.0}
    )  # a: a quarter of its work until b ends at 2, the half second left thereafter


@pytest.mark.parametrize(("workers", "policy"), [("1C", "collocated"), ("1P+1D", "disaggregated")])
def test_a_worker_never_disturbed_does_what_it_does_on_a_device_of_its_own(workers: str, policy: str) -> None:
    """One request at a time: two workers are never busy at once, apart from a spare step."""
    specs = named_workload("sharegpt", "poisson", 0.002, count=6, seed=3)
    shared = simulate(PROFILE, workers, policy, specs, sharing=DeviceSharing(0.5, 0.5))
    own = simulate(PROFILE, workers, policy, specs)
    for ours, theirs in zip(shared.records, own.records, strict=True):
        assert ours.request_id == theirs.request_id
        assert ours.e2e_ms == pytest.approx(theirs.e2e_ms, rel=0.02)
        assert ours.num_output_tokens == theirs.num_output_tokens


def test_two_workers_on_one_device_are_slower_than_on_two() -> None:
    specs = named_workload("sharegpt", "poisson", 12.0, count=60, seed=3)
    shared = simulate(PROFILE, "1P+1D", "disaggregated", specs, sharing=DeviceSharing())
    own = simulate(PROFILE, "1P+1D", "disaggregated", specs)
    assert len(shared.records) == 60
    ours, theirs = shared.summaries()["tpot_ms"], own.summaries()["tpot_ms"]
    assert ours is not None and theirs is not None
    assert 1.05 < ours.p50 / theirs.p50 < 2.0


def test_a_device_slows_down_after_a_burst_and_recovers() -> None:
    table = Table((1,), (0.01,))
    burst = Burst(StepTerms(table, Table((0,), (0.0,)), burst_ms=40.0, sustained_ratio=1.1))
    taken = [burst.prefill_s(when, 0.02) for when in (0.0, 0.02, 0.04, 0.062, 1.0, 1.02, 1.04)]
    assert taken == pytest.approx([0.02, 0.02, 0.022, 0.022, 0.02, 0.02, 0.022])
    assert Burst(StepTerms(table, table)).prefill_s(5.0, 0.02) == 0.02  # a profile that does not say


def test_a_message_takes_as_long_as_the_wire() -> None:
    specs = named_workload("sharegpt", "poisson", 0.002, count=4, seed=3)
    near, far = (simulate(PROFILE, "1P+1D", "disaggregated", specs, wire_ms=wire_ms).records for wire_ms in (0.0, 5.0))
    for ours, theirs in zip(far, near, strict=True):
        # since the central scheduler has the request: to reserve and back, to prefill, and the token back
        assert ours.ttft_ms - theirs.ttft_ms == pytest.approx(20.0, abs=0.01)
        # since its arrival: to the scheduler, ..., the KV's fence back, to start, and the last token back
        assert ours.e2e_ms - theirs.e2e_ms == pytest.approx(35.0, abs=0.01)
        assert ours.num_output_tokens == theirs.num_output_tokens
