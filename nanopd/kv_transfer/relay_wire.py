"""What the two halves of the pinned relay share: slots of host memory that hold blocks and where they go, and packets that say which slot is full.

A slot: ``[0, ids_bytes) destination block ids, int32 | [ids_bytes, ids_bytes + n * block_bytes) the blocks, [L, n, ...]``. The ids travel with the
blocks, so that the receiver moves both with one copy and its interpreter has little to do.
"""

import mmap
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

SERVICE = "relay"
NUM_SLOTS = 6  # one being filled, one being emptied, the others on their way to the next hand
SLOT_BYTES = 16 << 20  # 0.3 ms at 50 GB/s, ten times what a packet there and back takes
_PAGE_BYTES = 4096
_FILLED = struct.Struct("3i")
_EMPTIED = struct.Struct("i")


class RelayGeometry(msgspec.Struct, frozen=True):
    """The shared memory of one link: slots one after another, each for so many blocks."""

    num_slots: int
    blocks_per_slot: int
    block_bytes: int  # over all layers

    @classmethod
    def for_blocks(cls, block_bytes: int) -> "RelayGeometry":
        return cls(NUM_SLOTS, max(1, SLOT_BYTES // block_bytes), block_bytes)

    @property
    def ids_bytes(self) -> int:
        return -(-4 * self.blocks_per_slot // _PAGE_BYTES) * _PAGE_BYTES

    @property
    def slot_bytes(self) -> int:
        return self.ids_bytes + self.blocks_per_slot * self.block_bytes

    @property
    def num_bytes(self) -> int:
        return self.num_slots * self.slot_bytes

    def ids_of(self, memory: mmap.mmap) -> np.ndarray:
        """Where the ids lie: int32 [num_slots, at least blocks_per_slot], a view."""
        slots = np.frombuffer(memory, dtype=np.uint8).reshape(self.num_slots, self.slot_bytes)
        return slots[:, : self.ids_bytes].view(np.int32)


class Fence(Protocol):
    """A copy under way."""

    def synchronize(self) -> None:
        """Waits until it is done. Raises what went wrong."""
        ...


class Staging(Protocol):
    """Copies between a device's pool and the slots. Used by one thread."""

    def load(self, block_ids: Sequence[int]) -> Any:
        """Block ids as ``read`` wants them; slices of it will do, too."""
        ...

    def read(self, slot: int, source_ids: Any, destination_ids: Sequence[int]) -> Fence:
        """Starts to copy blocks of the pool into a slot, and writes down where they go."""
        ...

    def write(self, slot: int, num_blocks: int, to_scratch: bool) -> Fence:
        """Starts to copy the first blocks of a slot where they go: into the pool, or into the scratch memory beside it. Raises TransferError."""
        ...

    def close(self) -> None:
        """Waits for what is under way and lets go of the slots."""
        ...


def encode_filled(slot: int, num_blocks: int, to_scratch: bool) -> bytes:
    """Sender: a slot holds so many blocks."""
    return _FILLED.pack(slot, num_blocks, to_scratch)


def decode_filled(packet: bytes) -> tuple[int, int, bool]:
    slot, num_blocks, to_scratch = _FILLED.unpack(packet)
    return slot, num_blocks, bool(to_scratch)


def encode_emptied(slot: int) -> bytes:
    """Receiver: the blocks of a slot are where they go."""
    return _EMPTIED.pack(slot)


def decode_emptied(packet: bytes) -> int:
    """Raises ValueError for what is not a slot: the receiver's word on why it gave up."""
    if len(packet) != _EMPTIED.size:
        raise ValueError(packet.decode(errors="replace"))
    return int(_EMPTIED.unpack(packet)[0])
