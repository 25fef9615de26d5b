import pytest

from nanopd.config import ClusterConfig, EngineConfig
from nanopd.config.options import build_configs, option_names
from nanopd.errors import ConfigError


def test_nothing_given_is_the_defaults() -> None:
    assert build_configs({}) == (EngineConfig(), ClusterConfig())


def test_options_go_where_they_belong() -> None:
    options = {
        "workers": "1p+2D",
        "strategy": "disaggregated",
        "block_size": 32,
        "max_num_seqs": 4,
        "dtype": "float32",
        "max_attempts": 2,
    }
    engine, cluster = build_configs(options)
    assert (engine.cache.block_size, engine.scheduler.max_num_seqs, engine.dtype) == (32, 4, "float32")
    assert (str(cluster.topology), cluster.strategy, cluster.max_attempts) == ("1P+2D", "disaggregated", 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"blocksize": 32}, "unknown option blocksize; valid options are .*block_size"),
        ({"topology": "1C"}, "unknown option topology"),
        ({"strategy": "best"}, "strategy must be one of collocated, disaggregated, adaptive, got 'best'"),
        ({"workers": "3X"}, "workers must look like 1C"),
        ({"block_size": 24}, "block_size must be a power of two, got 24"),
    ],
)
def test_what_cannot_be_is_said(options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_configs(options)


def test_every_name_is_accepted() -> None:
    assert {"workers", "model", "block_size", "watermark", "startup_timeout_s"} <= set(option_names())
