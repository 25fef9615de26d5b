"""The original's published parameters and its crossover; the five parameters read off a profile."""

from dataclasses import replace

import pytest

from nanopd.cost_model import HardwareProfile, StepModel, StepTerms, TransferModel, original_parameters
from nanopd.cost_model.derive import prefill_intercept_ms
from nanopd.cost_model.original import H20, RTX_4090, OriginalParameters
from nanopd.cost_model.step_model import Table


@pytest.mark.parametrize(("parameters", "first_load"), [(RTX_4090, 3), (H20, 1)])
@pytest.mark.parametrize("prompt_len", [64, 1000, 32_000])
def test_published_crossover(parameters: OriginalParameters, first_load: int, prompt_len: int) -> None:
    """Load from which it disaggregates: 3 on the RTX 4090s, 1 on the H20, whatever the prompt and the output."""
    disaggregates = [
        load
        for load in range(12)
        if parameters.disaggregated_ms(prompt_len, 128.0, load) < parameters.collocated_ms(prompt_len, 128.0, load)
    ]
    assert disaggregates == list(range(first_load, 12))


def test_published_transfer_rates() -> None:
    assert RTX_4090.transfer_ms_per_token == pytest.approx(0.011434, rel=1e-3)
    assert H20.transfer_ms_per_token == pytest.approx(0.000376, rel=1e-2)
    assert RTX_4090.crossover_load == pytest.approx(2.1, abs=0.01)
    assert H20.crossover_load == pytest.approx(0.05, abs=0.01)


def test_parameters_of_a_profile_that_is_as_the_original_believes() -> None:
    """Steps that cost alpha a prompt token, beta a decode and bend at 32 come out as just that."""
    counts = (1, 32, 64, 4096)
    terms = StepTerms(
        Table(counts, (10.0, 10.0, 10.0, 10.0 + 4032 * 0.05)),
        Table((0, 32, 64, 256), (0.0, 0.0, 10.0, 70.0)),
        prefill_ms=3.0,
    )
    profile = HardwareProfile(
        hardware="paper",
        model="none",
        dtype="bfloat16",
        source="made up",
        kv_bytes_per_token=1000,
        num_blocks=10,
        max_model_len=100,
        step=StepModel(terms),
        transfer=TransferModel(0.1, 25.0),
        host_overhead_ms=0.0,
    )
    got = original_parameters(profile)
    assert got == replace(got, batch_thresh=32, bandwidth_gb_s=25.0, bytes_per_token=1000)
    assert got.alpha_ms == pytest.approx(0.05)
    assert got.beta_ms == pytest.approx(10.0)
    assert got.gamma_ms == pytest.approx((3.0 + (512 + 16 - 64) * 0.05) / 512)
    assert prefill_intercept_ms(profile) == pytest.approx(13.0 - 64 * 0.05)
