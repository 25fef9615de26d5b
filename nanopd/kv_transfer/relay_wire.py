"""What the two halves of the pinned relay say to each other: packets of a few int32, beside slots of shared host memory that hold the blocks."""

from array import array
from collections.abc import Sequence
from typing import Protocol

import msgspec

SERVICE = "relay"
NUM_SLOTS = 6  # one being filled, one being emptied, the others on their way to the next hand
SLOT_BYTES = 16 << 20  # 0.3 ms at 50 GB/s, ten times what a packet there and back takes
_MAX_BLOCKS = 4096  # a packet with their ids has to pass the socket


class RelayGeometry(msgspec.Struct, frozen=True):
    """The shared memory of one link: slots one after another, each for so many blocks."""

    num_slots: int
    blocks_per_slot: int
    slot_bytes: int

    @classmethod
    def for_blocks(cls, block_bytes: int) -> "RelayGeometry":
        """For blocks of ``block_bytes`` over all layers."""
        blocks_per_slot = min(max(1, SLOT_BYTES // block_bytes), _MAX_BLOCKS)
        return cls(NUM_SLOTS, blocks_per_slot, blocks_per_slot * block_bytes)

    @property
    def num_bytes(self) -> int:
        return self.num_slots * self.slot_bytes


class Fence(Protocol):
    """A copy under way."""

    def synchronize(self) -> None:
        """Waits until it is done. Raises what went wrong."""
        ...


class Staging(Protocol):
    """Copies between a device's pool and the slots. Used by one thread."""

    def read(self, slot: int, block_ids: Sequence[int]) -> Fence:
        """Starts to copy blocks of the pool into a slot, as [L, n, ...]."""
        ...

    def write(self, slot: int, block_ids: Sequence[int], to_scratch: bool) -> Fence:
        """Starts to copy a slot, [L, n, ...], into blocks of the pool, or of the scratch memory beside it."""
        ...

    def close(self) -> None:
        """Waits for what is under way and lets go of the slots."""
        ...


def encode_filled(slot: int, to_scratch: bool, block_ids: Sequence[int]) -> bytes:
    """Sender: a slot holds these blocks."""
    return array("i", [slot, int(to_scratch), *block_ids]).tobytes()


def decode_filled(packet: bytes) -> tuple[int, bool, list[int]]:
    numbers = array("i", packet)
    return numbers[0], bool(numbers[1]), numbers[2:].tolist()


def encode_emptied(slot: int) -> bytes:
    """Receiver: the blocks of a slot are in the pool."""
    return array("i", [slot]).tobytes()


def decode_emptied(packet: bytes) -> int:
    """Raises ValueError for what is not a slot: the receiver's word on why it gave up."""
    if len(packet) != 4:
        raise ValueError(packet.decode(errors="replace"))
    return array("i", packet)[0]
