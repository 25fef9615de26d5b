"""Times the real transfer path: blocks pushed from one pool into another through the transport workers on these devices would use."""

import random
from collections.abc import Sequence

import numpy as np
import torch

from nanopd.config import ModelConfig
from nanopd.cost_model import TransferModel
from nanopd.kv_cache import KvCache
from nanopd.kv_cache.store import pool_bytes
from nanopd.kv_transfer.endpoint import KvEndpoint, num_bytes_per_block
from nanopd.kv_transfer.select import open_endpoint
from nanopd.kv_transfer.transport import KvSender, PoolHandle
from nanopd.model_runner.device import DTYPES
from nanopd.profiler.timed_push import timed_push


class TransferBench:
    """Two pools and a sender between them; a context manager."""

    def __init__(
        self, model: ModelConfig, dtype: str, block_size: int, num_blocks: int, devices: Sequence[str], seed: int = 0
    ) -> None:
        self._endpoints = [open_endpoint(f"profile-{i}", device) for i, device in enumerate(devices)]
        self.transport = self._endpoints[0].transport  # the one that carried the last push, once there was one
        self._random = random.Random(seed)
        caches = [
            self._pool(endpoint, model, dtype, block_size, num_blocks, device)
            for endpoint, device in zip(self._endpoints, devices, strict=True)
        ]
        self.num_blocks = num_blocks
        self.block_bytes = num_bytes_per_block(caches[0].pool)
        self._sender: KvSender = self._endpoints[0].sender(caches[0].pool)
        self._destination: PoolHandle = self._endpoints[1].export(caches[1].pool)
        self._endpoints[0].export(caches[0].pool)

    def push_ms(self, num_blocks: int) -> float:
        """From the push to its fence, blocks scattered on both sides. Raises TransferError."""
        source_ids, destination_ids = (self._random.sample(range(self.num_blocks), num_blocks) for _ in range(2))
        elapsed_ms, result = timed_push(self._sender, self._destination, source_ids, destination_ids)
        self.transport = result.transport or self.transport
        return elapsed_ms

    def close(self) -> None:
        self._sender.close()
        for endpoint in self._endpoints:
            endpoint.close()

    def __enter__(self) -> "TransferBench":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _pool(
        self, endpoint: KvEndpoint, model: ModelConfig, dtype: str, block_size: int, num_blocks: int, device: str
    ) -> KvCache:
        storage = endpoint.allocate(pool_bytes(model, num_blocks, block_size, dtype))
        return KvCache.allocate(model, num_blocks, block_size, DTYPES[dtype], torch.device(device), storage)


def measure_transfer(bench: TransferBench, num_rounds: int) -> dict[int, list[float]]:
    """Milliseconds by bytes, over sizes up to half the pool."""
    sizes = [1 << power for power in range(0, max(1, bench.num_blocks // 2).bit_length(), 2)]
    times: dict[int, list[float]] = {size * bench.block_bytes: [] for size in sizes}
    for size in sizes:
        bench.push_ms(size)  # maps the pool, touches its memory
    for _ in range(num_rounds):
        for size in sizes:
            times[size * bench.block_bytes].append(bench.push_ms(size))
    return times


def fit_transfer(times: dict[int, list[float]]) -> TransferModel:
    """Latency and bandwidth, both at least 0, that fit the fastest push of each size best: what else runs only adds. Errors count by the root of
    their size, so that large pushes, which a cache does not hold, set the bandwidth."""
    from scipy.optimize import nnls

    fastest = np.array([min(values) for values in times.values()])
    rows = np.array([[1.0, float(num_bytes)] for num_bytes in times]) / np.sqrt(fastest)[:, None]
    scale = rows.max(axis=0)
    (latency, per_byte), _norm = nnls(rows / scale, np.sqrt(fastest))
    per_byte_ms = max(per_byte / scale[1], 1e-12)
    return TransferModel(float(latency / scale[0]), float(1.0 / per_byte_ms / 1e6))
