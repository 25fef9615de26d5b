"""How long KV is on its way, and how much of that a request has to wait for."""

from collections.abc import Sequence

import msgspec

from nanopd.errors import ConfigError


class TransferModel(msgspec.Struct, frozen=True):
    """Latency plus bytes over bandwidth."""

    latency_ms: float  # of one push, however small
    bandwidth_gb_s: float  # 10^9 bytes per second

    def __post_init__(self) -> None:
        if self.latency_ms < 0.0 or self.bandwidth_gb_s <= 0.0:
            raise ConfigError(
                f"a transfer needs latency_ms >= 0 and bandwidth_gb_s > 0, got {self.latency_ms} and {self.bandwidth_gb_s}"
            )

    def transfer_ms(self, num_bytes: int, share: float = 1.0) -> float:
        """One push of ``num_bytes`` that gets ``share`` of the bandwidth, in (0, 1]. Nothing to send takes no time."""
        return self.latency_ms + num_bytes / (self.bandwidth_gb_s * share * 1e6) if num_bytes else 0.0

    def exposed_ms(self, num_bytes: int, ready_ms: Sequence[float], chunk_bytes: int, share: float = 1.0) -> float:
        """What overlap does not hide: from the last chunk's readiness to the last byte's arrival.

        Chunk l (``chunk_bytes``, the last one what remains) can leave once it is computed, at ``ready_ms[l]``, and once the one before has left:
        f_l = max(f_(l-1), ready_l) + bytes_l / bandwidth.
        """
        num_chunks = -(-num_bytes // chunk_bytes)
        if num_chunks > len(ready_ms):
            raise ValueError(
                f"{num_bytes} bytes are {num_chunks} chunks of {chunk_bytes}, got {len(ready_ms)} ready times"
            )
        if num_bytes == 0:
            return 0.0
        per_byte = 1.0 / (self.bandwidth_gb_s * share * 1e6)
        finish = 0.0
        for i in range(num_chunks):
            finish = max(finish, ready_ms[i]) + min(chunk_bytes, num_bytes - i * chunk_bytes) * per_byte
        return max(0.0, finish + self.latency_ms - ready_ms[-1])
