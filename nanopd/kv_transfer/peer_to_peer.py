"""GPU workers whose devices reach one another (NVLink, PCIe peer access, or one device): blocks are written straight into the peer's pool.

The receiver does nothing: it hands out its pool once, as shareable memory (see ``device_memory``), and the sender's gather-scatter kernel writes
its scattered blocks into the reserved ones, all layers in one launch, on a stream of its own and on few SMs, so that the prefill goes on beside it.
A push is over when the event behind its kernel has been reached: a kernel's writes to a peer are visible to the whole system by then.
"""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch

from nanopd.errors import TransferError
from nanopd.kv_cache.moves import Pieces, move_blocks
from nanopd.kv_transfer.block_ids import IdBuffer
from nanopd.kv_transfer.device_memory import DeviceMemory
from nanopd.kv_transfer.endpoint import piece_bytes
from nanopd.kv_transfer.pool_server import Connection, Service, Wish, ask
from nanopd.kv_transfer.transport import PoolHandle, PushResult

SERVICE = "map"
MAX_CTAS = 16  # of 512 threads with 64 KiB in flight each; 64 carry 5 % more and cost the prefill half as much again
_NUM_PROBES = 4
_PROBE_BYTES = 256 << 20
_MIN_IDS = 1024  # a lane's: 16k tokens of 16 a block


class MemoryLayout(msgspec.Struct, frozen=True):
    """The answer to a wish to map: what lies where in the memory that comes with it."""

    num_bytes: int
    scratch_offset: int
    num_scratch_blocks: int


def serve_mapping(memory: DeviceMemory, layout: MemoryLayout) -> Service:
    """The receiver's part: gives every peer that asks a descriptor of the memory."""

    def serve(connection: Connection, wish: Wish, descriptors: list[int]) -> None:
        descriptor = memory.descriptor()
        try:
            connection.send(msgspec.json.encode(layout), [descriptor])
        finally:
            os.close(descriptor)

    return serve


@dataclass(frozen=True, slots=True)
class MappedPool:
    """A peer's pool in our address space; ``memory.close`` unmaps it."""

    memory: DeviceMemory
    blocks: Pieces
    scratch: Pieces


def map_pool(destination: PoolHandle, name: str, device: torch.device) -> MappedPool:
    """Another worker's pool, to be written by ``device``; ``name``: of our own pool, as peers know it. Raises TransferError."""
    connection, answer, descriptors = ask(destination.name, Wish(SERVICE, name))
    connection.close()
    try:
        layout = msgspec.json.decode(answer, type=MemoryLayout)
        if len(descriptors) != 1:
            raise TransferError(f"expected the descriptor of one memory, got {len(descriptors)}")
        memory = DeviceMemory.from_descriptor(descriptors[0], layout.num_bytes, device)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    num_layers, num_bytes = destination.num_layers, piece_bytes(destination)
    return MappedPool(
        memory,
        Pieces.contiguous(memory.address, num_layers, destination.num_blocks, num_bytes),
        Pieces.contiguous(memory.address + layout.scratch_offset, num_layers, layout.num_scratch_blocks, num_bytes),
    )


class _Lane:
    """What one push at a time needs on the way: made once, used often."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.ids = IdBuffer(capacity, device)
        self.started, self.ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))


@dataclass(frozen=True, slots=True)
class _Flight:
    push_id: str
    num_bytes: int
    lane: _Lane

    @property
    def elapsed_ms(self) -> float:
        return self.lane.started.elapsed_time(self.lane.ended)


class PeerToPeerSender:
    """See ``LinkSender``. A push is launched at once and cannot be stopped: it is over within milliseconds."""

    transport = "peer_to_peer"

    def __init__(self, pool: torch.Tensor, name: str, max_ctas: int = MAX_CTAS) -> None:
        """``name``: of our own pool, as peers know it."""
        self._name = name
        self._device = pool.device
        self._source = Pieces.of(pool)
        self._max_ctas = max_ctas
        self._stream = torch.cuda.Stream(pool.device, priority=-1)  # its few CTAs go before the prefill's many
        self._mapped: dict[str, MappedPool] = {}
        self._in_flight: deque[_Flight] = deque()
        self._free: list[_Lane] = []

    def meet(self, destination: PoolHandle) -> None:
        self._map(destination)

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        target = self._map(destination)
        self._in_flight.append(self._launch(push_id, target.blocks, source_ids, destination_ids))

    def poll(self) -> list[PushResult]:
        results = []
        while self._in_flight and self._in_flight[0].lane.ended.query():
            flight = self._in_flight.popleft()
            results.append(PushResult(flight.push_id, flight.num_bytes, flight.elapsed_ms))
            self._free.append(flight.lane)
        return results

    def cancel(self, push_id: str) -> None:
        """Too late: the kernel has been launched."""

    def forget(self, destination: PoolHandle) -> None:
        mapped = self._mapped.pop(destination.name, None)
        if mapped is not None:
            self._stream.synchronize()  # a kernel may be writing there
            mapped.memory.close()

    def close(self) -> None:
        self._stream.synchronize()
        for mapped in self._mapped.values():
            mapped.memory.close()
        self._mapped.clear()

    def probe(self, destination: PoolHandle) -> float:
        scratch = self._map(destination).scratch
        num_blocks = min(scratch.num_blocks, self._source.num_blocks)
        if num_blocks == 0:
            raise TransferError("blocks are too large for the probe's scratch memory")
        ids = list(range(num_blocks)) * max(1, _PROBE_BYTES // (num_blocks * self._block_bytes))
        flights = [self._launch("probe", scratch, ids, ids[::-1]) for _ in range(_NUM_PROBES)]
        self._stream.synchronize()
        self._free += [flight.lane for flight in flights]
        return flights[0].num_bytes / min(flight.elapsed_ms for flight in flights) / 1e6

    @property
    def _block_bytes(self) -> int:
        return self._source.num_layers * self._source.piece_bytes

    def _launch(
        self, push_id: str, target: Pieces, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> _Flight:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            lane = self._lane(len(source_ids))
            sources, targets = lane.ids.fill(source_ids, destination_ids, self._stream)
            lane.started.record()
            move_blocks(self._source, sources, target, targets, max_ctas=self._max_ctas)
            lane.ended.record()
        return _Flight(push_id, len(source_ids) * self._block_bytes, lane)

    def _lane(self, num_ids: int) -> _Lane:
        """One that is free and large enough. There are as many as pushes were ever under way at once."""
        lane = self._free.pop() if self._free else None
        if lane is None or lane.ids.capacity < num_ids:
            lane = _Lane(max(_MIN_IDS, 1 << (num_ids - 1).bit_length()), self._device)
        return lane

    def _map(self, destination: PoolHandle) -> MappedPool:
        mapped = self._mapped.get(destination.name)
        if mapped is None:
            mapped = map_pool(destination, self._name, self._device)
            theirs, ours = ((p.num_layers, p.piece_bytes) for p in (mapped.blocks, self._source))
            if theirs != ours:
                mapped.memory.close()
                raise TransferError(f"blocks of the two pools differ in [layers, bytes]: {ours} and {theirs}")
            self._mapped[destination.name] = mapped
        return mapped
