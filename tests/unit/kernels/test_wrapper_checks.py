"""Wrappers refuse what their kernels cannot do, before any GPU is touched."""

import pytest
import torch

from nanopd.kernels.block_copy import move_blocks
from nanopd.kernels.checks import check_rows, check_shape
from nanopd.kernels.paged_decode import DecodeConfig, choose_config, paged_decode
from nanopd.kernels.rope_store import rope_store


def decode_inputs(num_q_heads: int = 8, head_dim: int = 64, block_size: int = 16) -> list[torch.Tensor]:
    return [
        torch.zeros(3, num_q_heads, head_dim, dtype=torch.bfloat16),
        torch.zeros(5, 2, 2, block_size, head_dim, dtype=torch.bfloat16),
        torch.zeros(3, 4, dtype=torch.int32),
        torch.ones(3, dtype=torch.int32),
    ]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (decode_inputs(num_q_heads=7), "query heads must be 1 to 16 times the kv heads, got 7 and 2"),
        (decode_inputs(num_q_heads=34), "query heads must be 1 to 16 times the kv heads, got 34 and 2"),
        (decode_inputs(head_dim=96), r"head_dim must be one of \(64, 128, 256\), got 96"),
        (decode_inputs(block_size=24), "block_size must be a power of two from 8 to 256, got 24"),
        (decode_inputs(block_size=4), "block_size must be a power of two from 8 to 256, got 4"),
        ([*decode_inputs()[:2], torch.zeros(2, 4, dtype=torch.int32), decode_inputs()[3]], r"block_tables .*\[3, \*\]"),
        ([*decode_inputs()[:3], torch.ones(3)], "context_lens must be torch.int32"),
    ],
)
def test_paged_decode_refuses(inputs: list[torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paged_decode(*inputs)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("shared_bytes", [227 * 1024, 163 * 1024, 99 * 1024])
def test_a_decode_cta_fits_every_architecture(head_dim: int, shared_bytes: int) -> None:
    config = choose_config(head_dim, shared_bytes)
    assert config.ring_bytes(head_dim) + 2048 <= shared_bytes
    assert config.num_stages >= 1
    assert DecodeConfig(16, 4, 6).ring_bytes(128) == 4 * 6 * 16 * 128 * 2 * 2


def test_rope_store_refuses_half_a_norm_and_bad_angles() -> None:
    qkv, kv = torch.zeros(3, 12 * 64, dtype=torch.float16), torch.zeros(5, 2, 2, 16, 64, dtype=torch.float16)
    positions, slots, weight = torch.arange(3), torch.arange(3), torch.ones(64, dtype=torch.float16)
    with pytest.raises(ValueError, match="together"):
        rope_store(qkv, positions, torch.zeros(9, 64), kv, slots, 8, q_weight=weight)
    with pytest.raises(ValueError, match="rotary_dim a multiple of 16 up to 64"):
        rope_store(qkv, positions, torch.zeros(9, 128), kv, slots, 8)
    with pytest.raises(ValueError, match=r"qkv must have shape \[\*, 704\]"):
        rope_store(qkv, positions, torch.zeros(9, 64), kv, slots, 7)


def test_move_blocks_refuses_pools_that_differ() -> None:
    ids = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="agree"):
        move_blocks(torch.zeros(2, 3, 64), ids, torch.zeros(2, 3, 128), ids)
    with pytest.raises(ValueError, match="layer_range"):
        move_blocks(torch.zeros(2, 3, 64), ids, torch.zeros(2, 3, 64), ids, layer_range=(1, 3))
    with pytest.raises(ValueError, match="contiguous int32"):
        move_blocks(torch.zeros(2, 3, 64), ids.long(), torch.zeros(2, 3, 64), ids.long())


def test_rows_must_be_contiguous_and_aligned() -> None:
    check_rows(torch.zeros(4, 3, 16)[::2], "x")
    with pytest.raises(ValueError, match="contiguous rows"):
        check_rows(torch.zeros(4, 16, 3).transpose(1, 2), "x")
    with pytest.raises(ValueError, match="16 bytes"):
        check_rows(torch.zeros(4, 17), "x")
    with pytest.raises(ValueError, match=r"x must have shape \[4, \*\], got \[3, 5\]"):
        check_shape(torch.zeros(3, 5), (4, None), "x")
