"""move_blocks against indexing."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = "cuda"


def ids_of(*values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def pool(layers, blocks, *piece):
    return torch.randn(layers, blocks, *piece, device=DEVICE).bfloat16()


@pytest.mark.parametrize("piece", [(2, 8, 16, 128), (2, 1, 8, 64), (2, 3, 16, 64)])
@pytest.mark.parametrize("max_ctas", [None, 1, 7])
def test_copy_on_write(piece, max_ctas):
    from nanopd.kernels.block_copy import move_blocks

    kv = pool(5, 11, *piece)
    want = kv.clone()
    want[:, [4, 0, 7]] = want[:, [3, 9, 3]]
    move_blocks(kv, ids_of(3, 9, -1, 3), kv, ids_of(4, 0, 5, 7), max_ctas=max_ctas)
    assert torch.equal(kv, want)


def test_gather_then_scatter_into_another_layout():
    from nanopd.kernels.block_copy import move_blocks

    source, target = pool(4, 9, 2, 2, 16, 64), pool(4, 30, 2, 2, 16, 64)[:, ::2]
    staging = torch.full((4, 3, 2, 2, 16, 64), float("nan"), device=DEVICE, dtype=torch.bfloat16)
    want = target.clone()
    want[1:3, [14, 2, 5]] = source[1:3, [8, 1, 4]]
    move_blocks(source, ids_of(8, 1, 4), staging, None)
    assert torch.equal(staging, source[:, [8, 1, 4]])
    move_blocks(staging, None, target, ids_of(14, 2, 5), layer_range=(1, 3))
    assert torch.equal(target, want)


def test_refuses_pools_that_differ():
    from nanopd.kernels.block_copy import move_blocks

    with pytest.raises(ValueError, match="agree"):
        move_blocks(pool(2, 3, 8, 64), ids_of(0), pool(2, 3, 8, 128), ids_of(0))
    with pytest.raises(ValueError, match="same length"):
        move_blocks(pool(2, 3, 8, 64), ids_of(0), pool(2, 3, 8, 64), ids_of(0, 1))
    with pytest.raises(ValueError, match="contiguous"):
        move_blocks(pool(2, 3, 64, 8).transpose(2, 3), ids_of(0), pool(2, 3, 8, 64), ids_of(0))
