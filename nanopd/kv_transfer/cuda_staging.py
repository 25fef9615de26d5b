"""The pinned relay's copies on a GPU: a kernel gathers scattered blocks into one contiguous staging buffer, the copy engine does the rest.

A slot has a stream and a staging buffer of its own, so that kernels and both directions of the copy engine overlap across slots.
"""

import mmap
from collections.abc import Sequence

import torch

from nanopd.errors import TransferError
from nanopd.kv_cache.moves import Pieces, move_blocks
from nanopd.kv_transfer.block_ids import on_device
from nanopd.kv_transfer.device_memory import copy_async
from nanopd.kv_transfer.relay_wire import RelayGeometry

_MAX_CTAS = 8  # carry far more than PCIe does


class CudaStaging:
    """See ``relay_wire.Staging``. Little is done for a slot: the interpreter is the worker's, too."""

    def __init__(
        self, pool: Pieces, scratch: Pieces, device: torch.device, memory: mmap.mmap, geometry: RelayGeometry
    ) -> None:
        self._pool = pool
        self._scratch = scratch
        self._device = device
        self._geometry = geometry
        self._ids = geometry.ids_of(memory)
        torch.cuda.set_device(device)  # for the thread that makes it and uses it
        self._host: torch.Tensor | None = torch.frombuffer(memory, dtype=torch.uint8)
        self._host_address = self._host.data_ptr()
        result = torch.cuda.cudart().cudaHostRegister(self._host_address, geometry.num_bytes, 0)
        if int(result) != 0:
            raise TransferError(f"pinning {geometry.num_bytes} bytes of host memory failed: {result}")
        self._staged = torch.empty(geometry.num_slots, geometry.slot_bytes, dtype=torch.uint8, device=device)
        self._streams = [torch.cuda.Stream(device, priority=-1) for _ in range(geometry.num_slots)]
        self._copies = [_Copy(device) for _ in range(geometry.num_slots)]
        torch.cuda.current_stream(device).synchronize()

    def load(self, block_ids: Sequence[int]) -> torch.Tensor:
        with torch.cuda.stream(self._streams[0]):
            ids = on_device(block_ids, self._device)
        self._streams[0].synchronize()  # the other streams read them, too
        return ids

    def read(self, slot: int, source_ids: torch.Tensor, destination_ids: Sequence[int]) -> "_Copy":
        assert self._host is not None, "closed"
        staged, num_blocks, stream = self._blocks(slot, len(destination_ids)), len(destination_ids), self._streams[slot]
        self._ids[slot, :num_blocks] = destination_ids
        with torch.cuda.stream(stream):
            move_blocks(self._pool, source_ids, staged, None, max_ctas=_MAX_CTAS)
        address = self._host_address + slot * self._geometry.slot_bytes + self._geometry.ids_bytes
        copy_async(address, staged.address, num_blocks * self._geometry.block_bytes, stream)
        return self._copies[slot].begun(stream)

    def write(self, slot: int, num_blocks: int, to_scratch: bool) -> "_Copy":
        assert self._host is not None, "closed"
        target = self._scratch if to_scratch else self._pool
        ids = self._ids[slot, :num_blocks]
        if not 0 <= ids.min() <= ids.max() < target.num_blocks:
            raise TransferError(f"block ids must lie within [0, {target.num_blocks}), got {ids.min()} to {ids.max()}")
        geometry, stream, staged = self._geometry, self._streams[slot], self._staged[slot]
        address = self._host_address + slot * geometry.slot_bytes
        copy_async(staged.data_ptr(), address, geometry.ids_bytes + num_blocks * geometry.block_bytes, stream)
        with torch.cuda.stream(stream):
            staged_ids = staged[: 4 * num_blocks].view(torch.int32)
            move_blocks(self._blocks(slot, num_blocks), None, target, staged_ids, max_ctas=_MAX_CTAS)
        return self._copies[slot].begun(stream)

    def close(self) -> None:
        if self._host is None:
            return
        for stream in self._streams:
            stream.synchronize()
        torch.cuda.cudart().cudaHostUnregister(self._host_address)
        self._host = None

    def _blocks(self, slot: int, num_blocks: int) -> Pieces:
        """[L, n, ...] in the staging buffer of a slot."""
        address = self._staged.data_ptr() + slot * self._geometry.slot_bytes + self._geometry.ids_bytes
        return Pieces.contiguous(address, self._pool.num_layers, num_blocks, self._pool.piece_bytes)


class _Copy:
    """The last one of a slot: it has one at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event(blocking=True)

    def begun(self, stream: torch.cuda.Stream) -> "_Copy":
        self._event.record(stream)
        return self

    def synchronize(self) -> None:
        with torch.cuda.device(self._device):  # the thread may be another, and must not wake another device
            self._event.synchronize()
