"""One worker's end of a transport: it gives the KV pool its memory, exports it to peers, and sends from it."""

from math import prod
from typing import Protocol

import torch

from nanopd.kv_transfer.transport import KvSender, PoolHandle


class KvEndpoint(Protocol):
    """What each backend offers a worker. The pool is allocated once, exported once, and lives as long as the endpoint."""

    transport: str

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """Memory for the pool: uint8 [num_bytes], zeroed, reachable by peers once exported. Raises TransferError."""
        ...

    def export(self, pool: torch.Tensor) -> PoolHandle:
        """The handle by which peers reach ``pool``, [L, num_blocks, 2, K, S, D], which views the allocated memory."""
        ...

    def sender(self, pool: torch.Tensor) -> KvSender:
        """A sender whose source ids index ``pool``."""
        ...

    def close(self) -> None:
        """Gives the memory back; peers that still map it keep their mapping and nothing else."""
        ...


def describe_pool(pool: torch.Tensor, transport: str, name: str) -> PoolHandle:
    """The handle of a pool tensor [L, num_blocks, 2, K, S, D]."""
    num_layers, num_blocks, _, num_kv_heads, block_size, head_dim = pool.shape
    dtype = str(pool.dtype).removeprefix("torch.")
    return PoolHandle(
        transport, name, num_layers, num_blocks, block_size, num_kv_heads, head_dim, dtype, str(pool.device)
    )


def num_bytes_per_block(pool: torch.Tensor) -> int:
    """Bytes of one block over all layers."""
    return pool[:, 0].numel() * pool.element_size()


def piece_bytes(handle: PoolHandle) -> int:
    """Bytes of one block in one layer: contiguous in the pool."""
    dtype: torch.dtype = getattr(torch, handle.dtype)
    return prod(handle.shape[2:]) * dtype.itemsize
