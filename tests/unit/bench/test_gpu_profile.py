"""benchmarks/gpu_profile: what is derived from measurements, on measurements made by the simulator itself."""

import pytest
from msgspec import structs

from benchmarks.fidelity.simulated import simulated_rows
from benchmarks.fidelity.trace import make_trace
from benchmarks.gpu_profile.burst import with_burst
from benchmarks.gpu_profile.fidelity_record import Told, fidelity_record
from benchmarks.gpu_profile.measured import Machine, Run, ServedTrace
from benchmarks.gpu_profile.setting import GPU, LONE, MAX_NUM_SEQS, lone_requests, strategy_of
from benchmarks.gpu_profile.wire import wire_ms
from nanopd.cost_model import HardwareProfile, StepFeatures, StepModel, bundled

MACHINE = Machine("NVIDIA H100 80GB HBM3", 2, "abc")
SHORT = {"sharegpt": ("sharegpt", 12.0, 12, 21, 1024, 4, 32)}


@pytest.fixture(scope="module")
def profile() -> HardwareProfile:
    profile = bundled("h200_qwen3_8b")
    return structs.replace(profile, step=StepModel(structs.replace(profile.step.terms, burst_ms=0.0)))


def test_machines_have_names() -> None:
    assert (MACHINE.label, MACHINE.words) == ("2xh100", "two H100s")
    assert Machine("NVIDIA H200", 1, "").words == "one H200"
    assert Machine("AMD EPYC, 2 threads", 0, "").label == "try"
    assert (strategy_of("2C"), strategy_of("1P+1D")) == ("collocated", "disaggregated")


def test_finds_when_the_clocks_fall(profile: HardwareProfile) -> None:
    """From 40 ms of prompts on, steps take 1.1 times as long; a decode between them lets the device cool."""
    steps, spent_ms = [], 0.0
    for i in range(60):
        prompt = StepFeatures.of_prefill(512)
        ms = profile.step.device_ms(prompt) * (1.1 if spent_ms >= 40.0 else 1.0)
        steps.append((prompt, ms))
        spent_ms += ms
        if i % 12 == 11:
            steps.append((StepFeatures.of_decode(4, 100), 4.5))
            spent_ms = 0.0
    terms = with_burst(profile.step, steps).terms
    assert 35.0 <= terms.burst_ms <= 45.0
    assert terms.sustained_ratio == pytest.approx(1.1, abs=0.001)
    steady = [(f, profile.step.device_ms(f)) for f, _ in steps]
    assert with_burst(profile.step, steady).terms.burst_ms == 0.0
    assert with_burst(profile.step, []) is profile.step


@pytest.mark.parametrize("workers", ["2C", "1P+1D"])
def test_finds_what_a_message_takes(profile: HardwareProfile, workers: str) -> None:
    specs = lone_requests(GPU)
    real = simulated_rows(profile, workers, strategy_of(workers), specs, max_num_seqs=MAX_NUM_SEQS, wire_ms=0.7)
    assert wire_ms(profile, workers, specs, real) == pytest.approx(0.7, abs=0.01)


def test_a_run_that_is_as_simulated_is_within_the_limits_and_another_is_not(profile: HardwareProfile) -> None:
    rows = simulated_rows(profile, "2C", "collocated", make_trace(*SHORT["sharegpt"]), max_num_seqs=MAX_NUM_SEQS)
    run = Run("2C", [ServedTrace(LONE, rows[:1]), ServedTrace("sharegpt", rows)])
    page = fidelity_record(MACHINE, profile, run, SHORT, Told())
    assert "worker processes with a GPU each" in page and "within the limits." in page and "+0.0%" in page
    slow = StepModel(structs.replace(profile.step.terms, context_ms=200 * profile.step.terms.context_ms))
    page = fidelity_record(MACHINE, structs.replace(profile, step=slow), run, SHORT, Told())
    assert "not within the limits (" in page and "TPOT p50 +" in page
