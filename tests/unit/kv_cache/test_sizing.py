import pytest
import torch
from support.tiny_models import tiny_config

from nanopd.config import CacheConfig
from nanopd.errors import ConfigError
from nanopd.kv_cache import size_pool, sizing

CPU = torch.device("cpu")
CONFIG = tiny_config()
BLOCK_BYTES = 16 * CONFIG.kv_bytes_per_token("float32")


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(sizing, "available_cpu_bytes", lambda: 4000 * BLOCK_BYTES)


def blocks(cache=None, **options):
    return size_pool(CONFIG, cache or CacheConfig(block_size=16), "float32", CPU, **options)


def test_takes_a_share_of_free_memory(memory):
    weights = -(-4 * CONFIG.num_parameters // BLOCK_BYTES)
    assert blocks() == 1000 - weights
    assert blocks(CacheConfig(block_size=16, memory_fraction=0.5)) == 2000 - weights


def test_workers_of_one_machine_split_the_share(memory):
    assert blocks(num_workers_on_device=4) <= 250


def test_an_explicit_number_wins(memory):
    assert blocks(CacheConfig(num_blocks=7)) == 7


def test_does_not_take_more_than_sequences_could_fill(memory):
    assert blocks(max_useful_tokens=100) == 7


def test_says_so_when_nothing_fits(monkeypatch):
    monkeypatch.setattr(sizing, "available_cpu_bytes", lambda: BLOCK_BYTES)
    with pytest.raises(ConfigError, match="no memory for the KV cache on cpu"):
        blocks()


def test_reads_this_machine():
    assert sizing.available_cpu_bytes() > 1 << 20
