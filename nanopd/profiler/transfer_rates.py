"""Times hand-offs by size: blocks of this process's pool pushed into another process's, scattered on both sides, as workers do it.

Beside each size stands the plain copy of as many bytes in one piece inside this process, the most that a transport could reach.
"""

import random
import time
from collections.abc import Sequence

import torch

from nanopd.config import ModelConfig
from nanopd.errors import TransferError
from nanopd.kv_transfer.endpoint import num_bytes_per_block
from nanopd.kv_transfer.select import open_endpoint
from nanopd.kv_transfer.transport import KvSender
from nanopd.profiler.pool_process import PoolProcess, digest, fill
from nanopd.profiler.timed_push import timed_push

COPY = "plain copy"


class TransferRates:
    """A pool here and one in another process, bfloat16 [L, num_blocks, 2, K, S, D]; a context manager."""

    def __init__(
        self,
        model: ModelConfig,
        block_size: int,
        num_blocks: int,
        devices: tuple[str, str],
        transport: str = "auto",
        seed: int = 0,
    ) -> None:
        shape = (model.num_layers, num_blocks, 2, model.num_kv_heads, block_size, model.head_dim)
        self._endpoint = open_endpoint("rates", devices[0], transport)
        storage = self._endpoint.allocate(torch.Size(shape).numel() * torch.bfloat16.itemsize)
        self._pool = storage.view(torch.bfloat16).view(shape)
        self._endpoint.export(self._pool)
        fill(self._pool, seed)
        self._bytes = self._pool.view(torch.uint8).flatten()
        self._scratch = torch.zeros_like(self._bytes)
        self._random = random.Random(seed)
        self._peer = PoolProcess(shape, devices[1], transport)
        self._sender: KvSender = self._endpoint.sender(self._pool)
        self.sizes = [1 << power for power in range(max(1, num_blocks // 2).bit_length())]  # blocks
        self.block_bytes = num_bytes_per_block(self._pool)
        self.transport = self._peer.handle.transport  # the one that carried the last push, once there was one

    def measure(self, num_rounds: int) -> dict[str, dict[int, list[float]]]:
        """Milliseconds by transport and number of blocks. Raises TransferError, also where a block arrived changed."""
        for size in self.sizes:  # maps the pool, touches its memory
            self.check(*self._push(size)[1:])
            self._copy_ms(size)
        pushed: dict[int, list[float]] = {size: [] for size in self.sizes}
        copied: dict[int, list[float]] = {size: [] for size in self.sizes}
        for _ in range(
            num_rounds
        ):  # over all sizes and both ways, so that a disturbance of the machine meets them alike
            for size in self.sizes:
                pushed[size].append(self._push(size)[0])
                copied[size].append(self._copy_ms(size))
        return {self.transport: pushed, COPY: copied}

    def check(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Raises TransferError unless these blocks are bit by bit the same on both sides."""
        if self._peer.ask("digest", ids=target) != digest(self._pool, source):
            raise TransferError(f"{len(source)} blocks arrived changed over {self.transport}")

    def close(self) -> None:
        self._sender.close()
        self._peer.__exit__()
        self._endpoint.close()

    def __enter__(self) -> "TransferRates":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _push(self, num_blocks: int) -> tuple[float, list[int], list[int]]:
        """(milliseconds from the push to its fence, source ids, target ids)."""
        source, target = (self._random.sample(range(self._pool.shape[1]), num_blocks) for _ in range(2))
        elapsed_ms, result = timed_push(self._sender, self._peer.handle, source, target)
        self.transport = result.transport or self.transport
        return elapsed_ms, source, target

    def _copy_ms(self, num_blocks: int) -> float:
        """On a CPU by one thread, as the transport has."""
        num_bytes = num_blocks * self.block_bytes
        source, target = self._bytes[:num_bytes], self._scratch[:num_bytes]
        began = time.perf_counter()
        if source.is_cuda:
            target.copy_(source)
            torch.cuda.synchronize(source.device)
        else:
            target.numpy()[:] = source.numpy()
        return (time.perf_counter() - began) * 1e3
