"""GPU workers whose devices reach one another (NVLink, PCIe peer access, or one device): blocks are written straight into the peer's pool.

The receiver does nothing: it hands out its pool once, as shareable memory (see ``device_memory``), and the sender's gather-scatter kernel writes
its scattered blocks into the reserved ones, all layers in one launch, on a stream of its own and on few SMs, so that the prefill goes on beside it.
A push is over when the event behind its kernel has been reached: a kernel's writes to a peer are visible to the whole system by then.
"""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import msgspec
import torch

from nanopd.errors import TransferError
from nanopd.kv_cache.moves import Pieces, move_blocks
from nanopd.kv_transfer.block_ids import on_device
from nanopd.kv_transfer.device_memory import DeviceMemory
from nanopd.kv_transfer.pool_server import Connection, Service, Wish, ask
from nanopd.kv_transfer.transport import PoolHandle, PushResult

SERVICE = "map"
MAX_CTAS = 16  # of 512 threads with 64 KiB in flight each: 1 MiB, what a link of 450 GB/s and 2 us holds
_NUM_PROBES = 4


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
    num_layers, num_blocks, *piece = destination.shape
    piece_bytes = prod(piece) * getattr(torch, destination.dtype).itemsize
    scratch_address = memory.address + layout.scratch_offset
    return MappedPool(
        memory,
        Pieces.contiguous(memory.address, num_layers, num_blocks, piece_bytes),
        Pieces.contiguous(scratch_address, num_layers, layout.num_scratch_blocks, piece_bytes),
    )


@dataclass(frozen=True, slots=True)
class _Flight:
    push_id: str
    num_bytes: int
    started: torch.cuda.Event
    ended: torch.cuda.Event


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

    def meet(self, destination: PoolHandle) -> None:
        self._map(destination)

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        target = self._map(destination)
        self._in_flight.append(self._launch(push_id, target.blocks, source_ids, destination_ids))

    def poll(self) -> list[PushResult]:
        results = []
        while self._in_flight and self._in_flight[0].ended.query():
            flight = self._in_flight.popleft()
            elapsed_ms = flight.started.elapsed_time(flight.ended)
            results.append(PushResult(flight.push_id, flight.num_bytes, elapsed_ms))
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
        ids = list(range(num_blocks))
        flights = [self._launch("probe", scratch, ids, ids[::-1]) for _ in range(_NUM_PROBES)]
        self._stream.synchronize()
        best_ms = min(flight.started.elapsed_time(flight.ended) for flight in flights)
        return flights[0].num_bytes / best_ms / 1e6

    def _launch(
        self, push_id: str, target: Pieces, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> _Flight:
        started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            sources, targets = on_device((source_ids, destination_ids), self._device)
            started.record()
            move_blocks(self._source, sources, target, targets, max_ctas=self._max_ctas)
            ended.record()
        num_bytes = len(source_ids) * self._source.num_layers * self._source.piece_bytes
        return _Flight(push_id, num_bytes, started, ended)

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
