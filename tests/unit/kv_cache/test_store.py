import pytest
import torch
from support.tiny_models import tiny_config

from nanopd.errors import ConfigError
from nanopd.kv_cache import KvCache
from nanopd.kv_cache.store import pool_bytes

CONFIG = tiny_config()


def filled_cache(num_blocks=6, block_size=4):
    cache = KvCache.allocate(CONFIG, num_blocks, block_size, torch.float32, "cpu")
    cache.pool.copy_(torch.arange(cache.pool.numel()).view(cache.pool.shape))
    return cache


def test_a_block_of_a_layer_is_one_contiguous_piece():
    cache = filled_cache()
    assert cache.pool.shape == (CONFIG.num_layers, 6, 2, CONFIG.num_kv_heads, 4, CONFIG.head_dim)
    assert cache.layer(1)[3].is_contiguous()
    assert cache.layer(1).data_ptr() == cache.pool[1].data_ptr()


def test_copies_take_all_sources_before_any_destination():
    cache = filled_cache()
    before = cache.pool.clone()
    cache.copy_blocks([(0, 1), (1, 2)])
    assert torch.equal(cache.pool[:, 1], before[:, 0])
    assert torch.equal(cache.pool[:, 2], before[:, 1])
    assert torch.equal(cache.pool[:, [0, 3, 4, 5]], before[:, [0, 3, 4, 5]])


def test_scatter_undoes_gather_in_another_pool():
    source, destination = filled_cache(), KvCache.allocate(CONFIG, 9, 4, torch.float32, "cpu")
    destination.scatter([7, 2, 0], source.gather([1, 5, 3]))
    assert torch.equal(destination.pool[:, [7, 2, 0]], source.pool[:, [1, 5, 3]])
    assert not destination.pool[:, [1, 3, 4, 5, 6, 8]].any()


def test_views_the_storage_it_is_given():
    num_bytes = pool_bytes(CONFIG, 5, 8, "float32")
    storage = torch.zeros(num_bytes + 100, dtype=torch.uint8)
    cache = KvCache.allocate(CONFIG, 5, 8, torch.float32, "cpu", storage)
    cache.pool.fill_(1.0)
    assert storage[:num_bytes].any() and not storage[num_bytes:].any()
    with pytest.raises(ConfigError, match=f"at least {num_bytes} bytes"):
        KvCache.allocate(CONFIG, 5, 8, torch.float32, "cpu", storage[: num_bytes - 1])
