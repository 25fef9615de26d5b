"""The pinned relay's copies on a GPU: a kernel gathers scattered blocks into one contiguous staging buffer, the copy engine does the rest.

A slot has a stream and a staging buffer of its own, so that kernels and both directions of the copy engine overlap across slots.
"""

import mmap
from collections.abc import Sequence

import torch

from nanopd.errors import TransferError
from nanopd.kv_cache.moves import Pieces, move_blocks
from nanopd.kv_transfer.block_ids import on_device
from nanopd.kv_transfer.relay_wire import RelayGeometry

_MAX_CTAS = 8  # carry far more than PCIe does


class CudaStaging:
    """See ``relay_wire.Staging``."""

    def __init__(
        self, pool: Pieces, scratch: Pieces, device: torch.device, memory: mmap.mmap, geometry: RelayGeometry
    ) -> None:
        self._pool = pool
        self._scratch = scratch
        self._device = device
        host = torch.frombuffer(memory, dtype=torch.uint8)
        with torch.cuda.device(device):
            torch.cuda.set_device(device)  # a thread may be new to CUDA
            result = torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.numel(), 0)
            if int(result) != 0:
                raise TransferError(f"pinning {host.numel()} bytes of host memory failed: {result}")
            self._host: torch.Tensor | None = host.view(geometry.num_slots, geometry.slot_bytes)
            self._staged = torch.empty(geometry.num_slots, geometry.slot_bytes, dtype=torch.uint8, device=device)
            self._streams = [torch.cuda.Stream(device, priority=-1) for _ in range(geometry.num_slots)]
        torch.cuda.current_stream(device).synchronize()

    def read(self, slot: int, block_ids: Sequence[int]) -> "_Copy":
        assert self._host is not None, "closed"
        with torch.cuda.device(self._device), torch.cuda.stream(self._streams[slot]):
            (ids,) = on_device((block_ids,), self._device)
            move_blocks(self._pool, ids, self._blocks(slot, len(block_ids)), None, max_ctas=_MAX_CTAS)
            num_bytes = self._num_bytes(len(block_ids))
            self._host[slot, :num_bytes].copy_(self._staged[slot, :num_bytes], non_blocking=True)
            return _Copy(self._device)

    def write(self, slot: int, block_ids: Sequence[int], to_scratch: bool) -> "_Copy":
        assert self._host is not None, "closed"
        target = self._scratch if to_scratch else self._pool
        if not all(0 <= block_id < target.num_blocks for block_id in block_ids):
            raise TransferError(f"block ids must lie within [0, {target.num_blocks}), got {max(block_ids)}")
        with torch.cuda.device(self._device), torch.cuda.stream(self._streams[slot]):
            (ids,) = on_device((block_ids,), self._device)
            num_bytes = self._num_bytes(len(block_ids))
            self._staged[slot, :num_bytes].copy_(self._host[slot, :num_bytes], non_blocking=True)
            move_blocks(self._blocks(slot, len(block_ids)), None, target, ids, max_ctas=_MAX_CTAS)
            return _Copy(self._device)

    def close(self) -> None:
        if self._host is None:
            return
        for stream in self._streams:
            stream.synchronize()
        torch.cuda.cudart().cudaHostUnregister(self._host.data_ptr())
        self._host = None

    def _num_bytes(self, num_blocks: int) -> int:
        return self._pool.num_layers * num_blocks * self._pool.piece_bytes

    def _blocks(self, slot: int, num_blocks: int) -> torch.Tensor:
        """The staging buffer of a slot as [L, n, bytes]."""
        staged = self._staged[slot, : self._num_bytes(num_blocks)]
        return staged.view(self._pool.num_layers, num_blocks, self._pool.piece_bytes)


class _Copy:
    """What has been put on the current stream so far."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event(blocking=True)
        self._event.record()

    def synchronize(self) -> None:
        with torch.cuda.device(self._device):  # the thread may be another, and must not wake another device
            self._event.synchronize()
