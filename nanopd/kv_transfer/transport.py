"""The KV transport seam: how blocks of a prefill worker's pool reach the blocks a decode worker reserved.

Siblings: ``loopback`` (same process), ``shared_memory`` (CPU), ``pinned_relay``, ``peer_to_peer``; ``fault_proxy`` wraps any of them in tests.
Block ids are private to a worker: source ids index the sender's pool, destination ids the receiver's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PoolHandle:
    """What a peer needs to write into a worker's KV pool. Travels in messages; never executable."""

    transport: str
    name: str  # shared-memory name, IPC handle (hex), ...
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


class KvSender(Protocol):
    """The sending half, in the prefill worker."""

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        """Starts copying whole blocks; may return before the copy is done. Raises TransferError if the destination cannot be reached."""
        ...

    def poll(self) -> list[PushResult]:
        """Pushes that ended since the last call, each reported once."""
        ...

    def cancel(self, push_id: str) -> None:
        """Stops a push; it is still reported by ``poll`` once nothing of it can be written any more."""
        ...

    def forget(self, destination: PoolHandle) -> None:
        """Unmaps a destination whose worker is gone."""
        ...

    def close(self) -> None: ...
