import argparse

import pytest

from nanopd.cli.engine_options import add_engine_options, engine_and_cluster, engine_options
from nanopd.cli.sampling_options import add_sampling_options, sampling_params
from nanopd.config import ClusterConfig, EngineConfig
from nanopd.request import SamplingParams


def engine_args(*argv: str, **defaults: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_engine_options(parser, **defaults)
    return parser.parse_args(argv)


def test_nothing_given_is_the_configs_own_defaults() -> None:
    assert engine_and_cluster(engine_args()) == (EngineConfig(), ClusterConfig())


def test_a_command_may_have_its_own_defaults() -> None:
    assert engine_options(engine_args(workers="1P+1D")) == {"workers": "1P+1D"}
    assert engine_options(engine_args("--workers", "2C", workers="1P+1D")) == {"workers": "2C"}


def test_options_reach_the_configs() -> None:
    argv = "--model m --dtype float32 --block-size 32 --num-blocks 9 --max-num-seqs 3 --prefill-chunk-size 7 --workers 1C+1P+1D"
    engine, cluster = engine_and_cluster(
        engine_args(*argv.split(), "--strategy", "collocated", "--no-prefix-cache", "--no-cuda-graphs")
    )
    assert (engine.model, engine.dtype, engine.cuda_graphs) == ("m", "float32", False)
    assert (engine.cache.block_size, engine.cache.num_blocks, engine.cache.enable_prefix_cache) == (32, 9, False)
    assert (engine.scheduler.max_num_seqs, engine.scheduler.prefill_chunk_size) == (3, 7)
    assert (str(cluster.topology), cluster.strategy) == ("1C+1P+1D", "collocated")


@pytest.mark.parametrize("stop", [(), ("a",), ("a", "b")])
def test_sampling(stop: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser()
    add_sampling_options(parser, SamplingParams(max_tokens=64, temperature=0.0))
    argv = ["--seed", "3", "--top-k", "5", *(word for text in stop for word in ("--stop", text))]
    expected = SamplingParams(max_tokens=64, temperature=0.0, seed=3, top_k=5, stop=stop)
    assert sampling_params(parser.parse_args(argv)) == expected
