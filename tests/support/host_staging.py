"""The pinned relay's copies for pools in host memory: the relay's protocol, threads and lifetimes without a GPU."""

import mmap
import threading
from collections.abc import Sequence

import numpy as np
import torch

from nanopd.kv_transfer.endpoint import describe_pool, num_bytes_per_block
from nanopd.kv_transfer.pinned_relay import PinnedRelaySender
from nanopd.kv_transfer.pool_server import PoolServer
from nanopd.kv_transfer.relay_service import serve_relay
from nanopd.kv_transfer.relay_wire import SERVICE, RelayGeometry
from nanopd.kv_transfer.transport import PoolHandle

NUM_SCRATCH = 8


class Copy:
    """Is done when ``gate`` is open."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def synchronize(self) -> None:
        self._gate.wait()


class HostStaging:
    """See ``relay_wire.Staging``. Starting a write waits for ``gate``, a copy's end for ``read_gate`` or ``written_gate``; ``fails`` are raised."""

    def __init__(self, end: "HostRelayEnd", memory: mmap.mmap, geometry: RelayGeometry) -> None:
        self._end = end
        self._ids = geometry.ids_of(memory)
        slots = np.frombuffer(memory, dtype=np.uint8).reshape(geometry.num_slots, geometry.slot_bytes)
        self._slots = slots[:, geometry.ids_bytes :]

    def load(self, block_ids: Sequence[int]) -> list[int]:
        return list(block_ids)

    def read(self, slot: int, source_ids: list[int], destination_ids: Sequence[int]) -> Copy:
        blocks = self._end.bytes_LNB[:, source_ids]
        self._ids[slot, : len(destination_ids)] = destination_ids
        self._slots[slot, : blocks.size] = blocks.reshape(-1)
        self._end.num_read += 1
        return Copy(self._end.read_gate)

    def write(self, slot: int, num_blocks: int, to_scratch: bool) -> Copy:
        self._end.gate.wait()
        if self._end.fails:
            raise self._end.fails.pop()
        target = self._end.scratch_LNB if to_scratch else self._end.bytes_LNB
        shape = (target.shape[0], num_blocks, target.shape[2])
        target[:, self._ids[slot, :num_blocks]] = self._slots[slot, : np.prod(shape)].reshape(shape)
        self._end.num_written += 1
        return Copy(self._end.written_gate)

    def close(self) -> None:
        self._slots = self._slots[:0]


class HostRelayEnd:
    """A worker's end of the relay, both halves."""

    def __init__(self, name: str, pool: torch.Tensor) -> None:
        self.pool = pool
        self.bytes_LNB = pool.view(torch.uint8).flatten(2).numpy()
        self.scratch_LNB = np.zeros((pool.shape[0], NUM_SCRATCH, self.bytes_LNB.shape[2]), dtype=np.uint8)
        self.gate, self.read_gate, self.written_gate = (threading.Event() for _ in range(3))
        for gate in (self.gate, self.read_gate, self.written_gate):
            gate.set()
        self.num_read = self.num_written = 0  # copies started
        self.fails: list[Exception] = []
        self.server = PoolServer(name)
        self.server.services[SERVICE] = serve_relay(self.staging)
        self.handle: PoolHandle = describe_pool(pool, "pinned_relay", self.server.name)

    def staging(self, memory: mmap.mmap, geometry: RelayGeometry) -> HostStaging:
        return HostStaging(self, memory, geometry)

    def sender(self) -> PinnedRelaySender:
        block_bytes = num_bytes_per_block(self.pool)
        return PinnedRelaySender(self.server.name, min(self.pool.shape[1], NUM_SCRATCH), block_bytes, self.staging)
