"""The KV pool: one tensor [L, N, 2, K, S, D] for L layers of N blocks, K kv heads, S tokens a block, D values a head; index 0 of "2" is K, 1 is V.

One block of one layer is one contiguous piece, which is what transfers move and kernels read.
"""

from collections.abc import Sequence
from math import prod

import torch

from nanopd.config import ModelConfig
from nanopd.errors import ConfigError


class KvCache:
    """Holds the pool. Who owns which block is the block manager's business."""

    def __init__(self, pool_LN2KSD: torch.Tensor) -> None:
        assert pool_LN2KSD.dim() == 6 and pool_LN2KSD.is_contiguous(), (
            "the pool is a contiguous [L, N, 2, K, S, D] tensor"
        )
        self.pool = pool_LN2KSD
        self._layers = tuple(pool_LN2KSD.unbind())

    @classmethod
    def allocate(
        cls,
        model: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
        storage: torch.Tensor | None = None,
    ) -> "KvCache":
        """``storage``: a uint8 buffer (say, shared memory) of ``pool_bytes`` to view instead of allocating; it must be zeroed.

        Blocks start as zeros: a padded read past a sequence's end then meets finite values, which attention masks away.
        """
        shape = (model.num_layers, num_blocks, 2, model.num_kv_heads, block_size, model.head_dim)
        if storage is None:
            return cls(torch.zeros(shape, dtype=dtype, device=device))
        num_bytes = prod(shape) * dtype.itemsize
        if storage.dtype != torch.uint8 or storage.numel() < num_bytes:
            raise ConfigError(
                f"KV storage must be uint8 of at least {num_bytes} bytes, got {storage.dtype} of {storage.numel()}"
            )
        return cls(storage.view(-1)[:num_bytes].view(dtype).view(shape))

    @property
    def num_blocks(self) -> int:
        return self.pool.shape[1]

    @property
    def block_size(self) -> int:
        return self.pool.shape[4]

    def layer(self, index: int) -> torch.Tensor:
        """[N, 2, K, S, D], a view."""
        return self._layers[index]

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies whole blocks, (source, destination) each, in every layer. All sources are read before any destination is written."""
        if not pairs:
            return
        sources, destinations = zip(*pairs, strict=True)
        if self.pool.is_cuda and not set(sources) & set(destinations):
            from nanopd.kernels.block_copy import move_blocks

            source_ids, destination_ids = torch.tensor((sources, destinations), dtype=torch.int32).to(self.pool.device)
            move_blocks(self.pool, source_ids, self.pool, destination_ids)
        else:
            self.scatter(destinations, self.gather(sources))

    def gather(self, block_ids: Sequence[int]) -> torch.Tensor:
        """The blocks' contents as [L, n, 2, K, S, D], a copy."""
        return self.pool.index_select(1, torch.tensor(block_ids, dtype=torch.int64, device=self.pool.device))

    def scatter(self, block_ids: Sequence[int], data_Ln2KSD: torch.Tensor) -> None:
        """Writes contents as ``gather`` returns them into blocks."""
        expected = (self.pool.shape[0], len(block_ids), *self.pool.shape[2:])
        assert tuple(data_Ln2KSD.shape) == expected, f"data must have shape {expected}, got {tuple(data_Ln2KSD.shape)}"
        ids = torch.tensor(block_ids, dtype=torch.int64, device=self.pool.device)
        self.pool.index_copy_(1, ids, data_Ln2KSD.to(self.pool))


def pool_bytes(model: ModelConfig, num_blocks: int, block_size: int, dtype: str) -> int:
    """Size of the whole pool."""
    return num_blocks * block_size * model.kv_bytes_per_token(dtype)
