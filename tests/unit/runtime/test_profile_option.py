"""Which hardware profile the router gets."""

from pathlib import Path

import pytest

from nanopd.config.options import build_configs
from nanopd.cost_model import bundled
from nanopd.errors import ConfigError
from nanopd.runtime.controller import Controller


def profile_of(name: str | None) -> object:
    engine, cluster = build_configs({"profile": name} if name else {})
    return Controller(engine, cluster)._profile


def test_a_file_a_name_or_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    bundled("cpu_smollm2").save(path)
    for name in (str(path), "cpu_smollm2"):
        profile = profile_of(name)
        assert profile is not None and profile.kv_bytes_per_token == bundled("cpu_smollm2").kv_bytes_per_token
    assert profile_of(None) is None


def test_one_that_is_not_there_is_noticed_before_a_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the hardware profile .*nothing\.json"):
        profile_of(str(tmp_path / "nothing.json"))
    with pytest.raises(ConfigError, match="cpu_smollm2.*got 'frobnicate'"):
        profile_of("frobnicate")
