"""Optional end-to-end check of a hand-off: the sender states the CRC-32 of the blocks it pushed, the receiver compares its own."""

import zlib
from collections.abc import Sequence

import torch


def checksum_blocks(pool: torch.Tensor, block_ids: Sequence[int]) -> int:
    """CRC-32 over whole blocks of ``pool`` [L, num_blocks, 2, K, S, D] in the order given; block ids themselves do not enter it."""
    checksum = 0
    for block_id in block_ids:
        block = pool[:, block_id].contiguous().view(torch.uint8).flatten().cpu()
        checksum = zlib.crc32(block.numpy().data, checksum)
    return checksum
