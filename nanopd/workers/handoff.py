"""The push of one prefill leg's KV into the blocks its decode worker reserved.

Positions, and who is responsible for them::

    [0, first_block * S) resident at the destination | [.., pushed) in flight or there | [.., num_tokens) not pushed yet

Full blocks go as soon as they are computed; the last, partial one when everything is. The *fence* is the end of the last push: only then does the
destination hold the whole prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nanopd.kv_transfer.transport import PoolHandle, PushResult


@dataclass(frozen=True, slots=True)
class Push:
    """Whole blocks to copy: the i-th source block to the i-th destination block."""

    push_id: str
    source_ids: tuple[int, ...]
    destination_ids: tuple[int, ...]


@dataclass(slots=True)
class Handoff:
    """Bookkeeping of one hand-off. Says what to push; somebody else does it and reports back."""

    seq_id: str
    destination: PoolHandle
    destination_ids: tuple[int, ...]  # for the blocks from ``first_block`` on
    first_block: int
    num_tokens: int  # prompt and earlier output: all whose KV moves
    block_size: int
    next_block: int = field(init=False)  # index into the block table of the next block to push
    source_ids: list[int] = field(default_factory=list)  # pushed so far, in order
    in_flight: set[str] = field(default_factory=set)
    progress_at: float = 0.0  # seconds, when a push last began or ended
    num_bytes: int = 0
    transfer_ms: float = 0.0
    transport: str = ""  # that carried it (the last one, if one failed on the way)

    def __post_init__(self) -> None:
        self.next_block = self.first_block

    @property
    def num_blocks(self) -> int:
        """Blocks that hold ``num_tokens`` tokens, resident ones included."""
        return -(-self.num_tokens // self.block_size)

    @property
    def is_settled(self) -> bool:
        """Nothing is being written now."""
        return not self.in_flight

    @property
    def is_complete(self) -> bool:
        """The fence: every block has been pushed, and every push has ended."""
        return self.next_block >= self.num_blocks and self.is_settled

    def mismatch(self) -> str | None:
        """What is wrong with the reservation, if anything."""
        if len(self.destination_ids) == self.num_blocks - self.first_block:
            return None
        return f"expected {self.num_blocks - self.first_block} reserved blocks, got {len(self.destination_ids)}"

    def next_push(self, end: int, block_table: Sequence[int]) -> Push | None:
        """What may go now that the KV of positions [0, end) is in the blocks of ``block_table``."""
        ready = self.num_blocks if end >= self.num_tokens else end // self.block_size
        if ready <= self.next_block:
            return None
        source_ids = tuple(block_table[self.next_block : ready])
        offset = self.next_block - self.first_block
        push = Push(
            f"{self.seq_id}/{self.next_block}", source_ids, self.destination_ids[offset : offset + len(source_ids)]
        )
        self.next_block = ready
        self.source_ids += source_ids
        self.in_flight.add(push.push_id)
        return push

    def ended(self, result: PushResult) -> bool:
        """A push has ended; False if it was not in flight (a duplicate report)."""
        if result.push_id not in self.in_flight:
            return False
        self.in_flight.remove(result.push_id)
        self.num_bytes += result.num_bytes
        self.transfer_ms += result.transfer_ms
        self.transport = result.transport or self.destination.transport
        return True


def handoff_of_push(push_id: str) -> str:
    """The seq_id whose hand-off a push belongs to."""
    return push_id.rpartition("/")[0]
