"""The profiler on a tiny model, end to end."""

from pathlib import Path

import pytest
from support.tiny_models import dummy_folder, tiny_config

from nanopd.batch import Batch
from nanopd.cli import main
from nanopd.config import CacheConfig, EngineConfig
from nanopd.cost_model import HardwareProfile, StepFeatures, TransferModel
from nanopd.model_runner import ModelRunner
from nanopd.profiler import load_runner, measured_config, profile_device, profile_runner
from nanopd.profiler.grid import Case
from nanopd.profiler.host import host_step_ms
from nanopd.profiler.steps import StepBench
from nanopd.profiler.transfer import measure_transfer


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    folder = dummy_folder(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)
    return EngineConfig(
        model=folder,
        load_format="dummy",
        device="cpu",
        dtype="float32",
        num_threads=1,
        cache=CacheConfig(num_blocks=64),
    )


def test_a_batch_is_the_case(config: EngineConfig) -> None:
    """Its features are the case's, its sequences share no block, and it runs."""
    bench = StepBench(ModelRunner.load(config))
    case = Case(((20, 5), (7, 0)), (33, 16, 2))
    batch = bench.batch(case)
    assert isinstance(batch, Batch)
    assert StepFeatures.of_batch(batch) == case.features
    blocks = [block for piece in batch.slices for block in piece.block_table]
    assert len(set(blocks)) == len(blocks)
    assert bench.step_ms(case) > 0.0
    assert 0.0 < bench.share <= 1.5


def test_the_real_transport_is_timed() -> None:
    """Between two processes: every size in bytes, each round of it."""
    transport, times = measure_transfer(tiny_config(), 8, ("cpu", "cpu"), num_rounds=2)
    assert transport == "shared_memory"
    block_bytes = min(times)
    assert list(times) == [block_bytes << power for power in range(8)]
    assert all(len(values) == 2 and min(values) > 0.0 for values in times.values())


def test_host_overhead_is_that_of_an_engine() -> None:
    assert 0.0 < host_step_ms(4, num_steps=20) < 100.0


def test_profile_from_the_command_line(
    config: EngineConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.json"
    options = [
        "--model",
        config.model,
        "--load-format",
        "dummy",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--num-threads",
        "1",
    ]
    assert main(["profile", "--quick", "--budget", "0.1", "--out", str(out), *options]) == 0
    profile = HardwareProfile.load(out)
    assert profile.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
    assert {sample.features.kind for sample in profile.samples} == {"prefill", "decode", "mixed"}
    assert profile.step.predict_ms(StepFeatures.of_prefill(256)) > profile.step.predict_ms(
        StepFeatures.of_decode(1, 64)
    )
    printed = capsys.readouterr().out
    for text in ("Held-out step time", "alpha, ms per prompt token", "0.12472", "0.14518", "crossover load"):
        assert text in printed


def test_progress_reaches_the_end(config: EngineConfig) -> None:
    shares: list[float] = []
    measured = profile_device(config, budget_s=0.05, quick=True, progress=lambda _what, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert measured.num_rounds >= 3
    assert set(measured.profile.held_out_errors) == {"all", "prefill", "decode", "mixed"}
    assert measured.profile.num_blocks == 64  # of a worker with this configuration, not of the measuring pool
    points = measured.profile.measurements
    assert points is not None
    assert points.read_bandwidth_gb_s > 0.0 and points.weight_bytes > 0
    assert {case.num_bytes for case in points.transfer}
    for point in (*points.decode, *points.prefill, *points.interference):
        assert 0.0 < point.measured.low_ms <= point.measured.ms <= point.measured.high_ms
        assert point.fit_ms > 0.0
    alone = {(point.batch, point.context): point.measured.ms for point in points.decode}
    shared = [point for point in points.interference if (point.batch, point.context) in alone]
    assert shared and all(point.decode_ms == alone[point.batch, point.context] for point in shared)


def test_a_known_transfer_is_taken_as_it_is(config: EngineConfig) -> None:
    """And every round's times are shown to who wants to keep them."""
    rounds: list[int] = []
    config = measured_config(config)
    measured = profile_runner(
        load_runner(config, quick=True),
        config,
        budget_s=0.05,
        quick=True,
        transfer=TransferModel(1.0, 2.0),
        min_rounds=2,
        on_round=lambda times: rounds.append(min(map(len, times.values()))),
    )
    assert measured.profile.transfer == TransferModel(1.0, 2.0)
    assert measured.profile.measurements is not None and measured.profile.measurements.transfer == ()
    assert rounds == [1, 2]
