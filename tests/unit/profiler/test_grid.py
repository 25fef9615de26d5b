"""What is measured, and the transfer's fit."""

import pytest

from nanopd.profiler.grid import CPU, CPU_QUICK, GPU, GPU_QUICK, Axes, Case, Limits, cases, fits, ragged
from nanopd.profiler.transfer import fit_transfer

WIDE = Limits(max_model_len=32_768, max_step_tokens=16_384, max_num_seqs=256, pool_tokens=300_000)


def test_features_of_a_case_are_those_of_its_parts() -> None:
    features = Case(((10, 5), (4, 0)), (100, 7)).features
    assert (features.num_prefill_tokens, features.num_prefills, features.num_decodes, features.decode_context) == (
        14,
        2,
        2,
        107,
    )
    assert features.prefill_attention == sum(range(6, 16)) + sum(range(1, 5))


@pytest.mark.parametrize("axes", [CPU, CPU_QUICK, GPU, GPU_QUICK])
def test_every_grid_covers_every_kind_and_its_attention(axes: Axes) -> None:
    grid = cases(axes, WIDE)
    assert {case.features.kind for case in grid} == {"prefill", "decode", "mixed"}
    assert len(set(grid)) == len(grid)
    for kind in ("prefill", "decode"):  # same tokens, other contexts: what attention costs can be told
        assert len({case.features.num_tokens for case in grid if case.features.kind == kind}) < sum(
            case.features.kind == kind for case in grid
        )


def test_cases_beyond_the_device_are_left_out() -> None:
    small = Limits(max_model_len=600, max_step_tokens=256, max_num_seqs=8, pool_tokens=2048)
    grid = cases(CPU, small)
    assert grid
    assert all(fits(case, small) for case in grid)
    assert all(len(case.contexts) <= 8 and max(case.contexts) <= 600 and sum(case.contexts) <= 2048 for case in grid)
    assert not fits(Case(((257, 0),)), small)


def test_latency_and_bandwidth_are_found() -> None:
    times = {n: [9.0, 0.2 + n / 2e6, 12.0] for n in (1000, 100_000, 10_000_000)}  # most pushes disturbed
    model = fit_transfer(times)
    assert model.latency_ms == pytest.approx(0.2, rel=1e-3)
    assert model.bandwidth_gb_s == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(("batch", "context"), [(1, 64), (2, 320), (7, 1000), (256, 4096)])
def test_ragged_contexts_keep_their_mean(batch: int, context: int) -> None:
    contexts = ragged(batch, context)
    assert len(contexts) == batch
    assert sum(contexts) / batch == pytest.approx(context, rel=0.02)
    assert batch == 1 or contexts[-1] > 2 * contexts[0]
