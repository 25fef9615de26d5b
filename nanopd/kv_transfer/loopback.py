"""Pools of one process: a push is a copy between two tensors, done when ``push`` returns. The simplest backend, and the tests' oracle."""

import time
from collections.abc import Sequence

import torch

from nanopd.errors import TransferError
from nanopd.kv_transfer.endpoint import describe_pool
from nanopd.kv_transfer.transport import KvSender, PoolHandle, PushResult


class LoopbackHub:
    """The pools that can reach one another, by name. A dict's get, set and pop are atomic, so threads may share a hub."""

    def __init__(self) -> None:
        self.pools: dict[str, torch.Tensor] = {}

    def endpoint(self, name: str, device: str = "cpu") -> "LoopbackEndpoint":
        return LoopbackEndpoint(self, name, device)


class LoopbackEndpoint:
    """See ``KvEndpoint``."""

    transport = "loopback"

    def __init__(self, hub: LoopbackHub, name: str, device: str) -> None:
        self._hub = hub
        self._name = name
        self._device = device

    def allocate(self, num_bytes: int) -> torch.Tensor:
        return torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)

    def export(self, pool: torch.Tensor) -> PoolHandle:
        self._hub.pools[self._name] = pool
        return describe_pool(pool, self.transport, self._name)

    def sender(self, pool: torch.Tensor) -> KvSender:
        return LoopbackSender(self._hub, pool)

    def close(self) -> None:
        self._hub.pools.pop(self._name, None)


class LoopbackSender:
    """See ``KvSender``."""

    def __init__(self, hub: LoopbackHub, pool: torch.Tensor) -> None:
        self._hub = hub
        self._pool = pool
        self._results: list[PushResult] = []

    def meet(self, destination: PoolHandle) -> None:
        """Nothing to find out."""

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        target = self._hub.pools.get(destination.name)
        if target is None:
            raise TransferError(f"no pool named {destination.name!r} in this process")
        began = time.perf_counter()
        blocks = self._pool[:, list(source_ids)]
        target[:, list(destination_ids)] = blocks
        elapsed_ms = (time.perf_counter() - began) * 1e3
        self._results.append(PushResult(push_id, blocks.numel() * blocks.element_size(), elapsed_ms))

    def poll(self) -> list[PushResult]:
        results, self._results = self._results, []
        return results

    def cancel(self, push_id: str) -> None:
        """Nothing to stop: the copy was done before ``push`` returned."""

    def forget(self, destination: PoolHandle) -> None:
        """Nothing is mapped."""

    def close(self) -> None:
        """Nothing is held."""
