"""Where the pieces of a pool lie, against the addresses of the pool's own views."""

import pytest
import torch

from nanopd.kv_cache.moves import Pieces

SHAPE = (5, 7, 2, 2, 4, 8)


def address(pieces: Pieces, layer: int, block: int) -> int:
    return pieces.address + layer * pieces.layer_stride + block * pieces.block_stride


@pytest.mark.parametrize("first_layer", [0, 2])
def test_a_pools_pieces_are_its_layer_and_block_views(first_layer: int) -> None:
    pool = torch.zeros(SHAPE, dtype=torch.bfloat16)
    pieces = Pieces.of(pool).layers(first_layer, 5)
    assert (pieces.num_layers, pieces.num_blocks, pieces.piece_bytes) == (5 - first_layer, 7, 2 * 2 * 4 * 8 * 2)
    for layer in range(5 - first_layer):
        for block in range(7):
            assert address(pieces, layer, block) == pool[first_layer + layer, block].data_ptr()


def test_a_pool_known_by_its_address_alone_has_the_same_pieces() -> None:
    pool = torch.zeros(SHAPE, dtype=torch.bfloat16)
    assert Pieces.contiguous(pool.data_ptr(), 5, 7, pool[0, 0].nbytes) == Pieces.of(pool)


def test_pieces_with_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="kv must have contiguous"):
        Pieces.of(torch.zeros(SHAPE).transpose(4, 5), "kv")
