"""Profiles as files."""

import subprocess
import sys
from pathlib import Path

import pytest

from nanopd.cost_model import HardwareProfile, StepFeatures, bundled, bundled_names
from nanopd.errors import ConfigError


@pytest.mark.parametrize("name", ["cpu_smollm2", "h200_qwen3_8b"])
def test_bundled_profiles_are_whole(name: str, tmp_path: Path) -> None:
    profile = bundled(name)
    assert name in bundled_names()
    assert profile.source
    one, many = StepFeatures.of_decode(1, 512), StepFeatures.of_decode(32, 512)
    assert 0.0 < profile.step.predict_ms(one) < profile.step.predict_ms(many)
    assert profile.launches_ahead == name.startswith("h200")
    assert profile.step.quantile_ms(many, 0.05) <= profile.step.quantile_ms(many, 0.95)
    profile.save(tmp_path / "p.json")
    again = HardwareProfile.load(tmp_path / "p.json")
    assert again.step.terms == profile.step.terms
    assert again.transfer == profile.transfer
    assert again.samples == profile.samples


def test_the_measured_h200_profile_fits_its_own_points() -> None:
    """Also where a chunk of 512 tokens beside decodes runs as the next graph, of 640."""
    profile = bundled("h200_qwen3_8b")
    points, launch_ms = profile.measurements, profile.step.terms.launch_ms
    assert points is not None
    for point in points.decode:
        assert point.fit_ms == pytest.approx(point.measured.ms, rel=0.05)
        assert point.roofline_ms < point.measured.ms
    for point in (*points.prefill, *points.interference):
        if point.measured.ms > 1.5 * launch_ms:
            assert point.fit_ms == pytest.approx(point.measured.ms, rel=0.1)
    step = profile.step
    whole, past = (
        step.device_ms(StepFeatures.of_prefill(512) + StepFeatures.of_decode(batch, 1024)) for batch in (0, 4)
    )
    assert past > 1.2 * whole
    assert all(error < 0.05 for error in profile.held_out_errors.values())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"{", "not a hardware profile"),
        (b"[]", "not a hardware profile"),
        (b'{"version": 99}', "version 1 is read, got 99"),
        (b'{"version": 1, "hardware": 3}', "not a hardware profile"),
    ],
)
def test_says_what_is_wrong_with_a_file(text: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=complaint):
        HardwareProfile.load(path)


def test_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match="one of cpu_smollm2, h200_qwen3_8b"):
        bundled("abacus")
    with pytest.raises(ConfigError, match="cannot read the hardware profile"):
        HardwareProfile.load(Path("/nowhere/p.json"))


@pytest.mark.parametrize(
    ("rooms", "heavy"),
    [
        ("nanopd.cost_model", {"numpy", "scipy", "torch"}),
        ("nanopd.workload, nanopd.router.predictor", {"scipy", "torch"}),
    ],
)
def test_starts_light(rooms: str, heavy: set[str]) -> None:
    code = f"import sys, {rooms}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
