"""The KV transport seam: how blocks of a prefill worker's pool reach the blocks a decode worker reserved.

Siblings: ``loopback`` (same process), ``shared_memory`` (CPU), ``peer_to_peer`` and ``pinned_relay`` (GPUs); ``fault_proxy`` wraps any of them in
tests. Block ids are private to a worker: source ids index the sender's pool, destination ids the receiver's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PoolHandle:
    """What a peer needs to write into a worker's KV pool. Travels in messages; never executable."""

    transport: str
    name: str  # of the memory file or the socket by which the pool is reached
    num_layers: int
    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole pool: [layers, blocks, 2, kv heads, block size, head dim]."""
        return (self.num_layers, self.num_blocks, 2, self.num_kv_heads, self.block_size, self.head_dim)


@dataclass(frozen=True, slots=True)
class PushResult:
    """A push whose last byte is in the destination: its fence has ended."""

    push_id: str
    num_bytes: int
    transfer_ms: float
    error: str | None = (
        None  # set: the destination blocks hold garbage, the push must be repeated or the request re-planned
    )
    transport: str = ""  # that carried it, where a destination can be reached by several


class KvSender(Protocol):
    """The sending half, in the prefill worker."""

    def meet(self, destination: PoolHandle) -> None:
        """A new peer's pool: what is to be found out or set up before the first push is done now."""
        ...

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        """Starts copying whole blocks, whose content is there already; may return before the copy is done.

        Raises TransferError if the destination cannot be reached.
        """
        ...

    def poll(self) -> list[PushResult]:
        """Pushes that ended since the last call, each reported once."""
        ...

    def cancel(self, push_id: str) -> None:
        """Stops a push; it is still reported by ``poll`` once nothing of it can be written any more."""
        ...

    def forget(self, destination: PoolHandle) -> None:
        """The destination's worker is gone: unmaps its pool, and takes no more of what it was sending here."""
        ...

    def close(self) -> None: ...


class LinkSender(KvSender, Protocol):
    """A sender that several of may reach the same destination, so that the better one must be found out."""

    transport: str

    def probe(self, destination: PoolHandle) -> float:
        """Moves a few megabytes over the real path into the destination's scratch blocks: GB/s. Raises TransferError."""
        ...
