"""A GPU worker's end: its pool in shareable memory, a door for peers, and every transport that could reach theirs."""

from functools import partial
from mmap import mmap

import torch

from nanopd.kv_cache.moves import Pieces
from nanopd.kv_transfer import peer_to_peer, relay_wire
from nanopd.kv_transfer.cuda_staging import CudaStaging
from nanopd.kv_transfer.device_memory import DeviceMemory, supports_sharing
from nanopd.kv_transfer.endpoint import describe_pool, num_bytes_per_block
from nanopd.kv_transfer.failover import FailoverSender
from nanopd.kv_transfer.link import rank_by_probe
from nanopd.kv_transfer.peer_to_peer import MemoryLayout, PeerToPeerSender, serve_mapping
from nanopd.kv_transfer.pinned_relay import PinnedRelaySender
from nanopd.kv_transfer.pool_server import PoolServer
from nanopd.kv_transfer.relay_service import serve_relay
from nanopd.kv_transfer.relay_wire import RelayGeometry
from nanopd.kv_transfer.transport import LinkSender, PoolHandle

TRANSPORTS = (PeerToPeerSender.transport, PinnedRelaySender.transport)
SCRATCH_BYTES = 64 << 20  # behind the pool, where peers probe


class CudaEndpoint:
    """See ``KvEndpoint``.

    Memory: ``[0, pool) the pool | [scratch_offset, ...) scratch blocks of the same geometry, which hold nothing``.
    """

    transport = "cuda"

    def __init__(self, worker_id: str, device: str, transports: tuple[str, ...] = TRANSPORTS) -> None:
        """``transports``: those to try."""
        self._device = torch.device("cuda", torch.device(device).index or 0)
        self.transports = transports
        self._server = PoolServer(worker_id)
        self._shared: DeviceMemory | None = None  # None: memory of this GPU cannot be shared
        self._memory: torch.Tensor | None = None

    def allocate(self, num_bytes: int) -> torch.Tensor:
        assert self._memory is None, "a worker has one pool"
        total = num_bytes + SCRATCH_BYTES
        if supports_sharing(self._device):
            self._shared = DeviceMemory.create(self._device, total)
            self._memory = self._shared.tensor().zero_()
        else:
            self._memory = torch.zeros(total, dtype=torch.uint8, device=self._device)
        return self._memory[:num_bytes]

    def export(self, pool: torch.Tensor) -> PoolHandle:
        scratch = self._scratch(pool)
        if self._shared is not None:
            offset = scratch.address - self._shared.address
            layout = MemoryLayout(self._shared.num_bytes, offset, scratch.num_blocks)
            self._server.services[peer_to_peer.SERVICE] = serve_mapping(self._shared, layout)
        self._server.services[relay_wire.SERVICE] = serve_relay(partial(self._staging, pool))
        return describe_pool(pool, self.transport, self._server.name)

    def sender(self, pool: torch.Tensor) -> FailoverSender:
        name = self._server.name
        senders: list[LinkSender] = []
        if PeerToPeerSender.transport in self.transports:
            senders.append(PeerToPeerSender(pool, name))
        if PinnedRelaySender.transport in self.transports:
            staging = partial(self._staging, pool)
            senders.append(PinnedRelaySender(name, pool.shape[1], num_bytes_per_block(pool), staging))
        rank = partial(rank_by_probe, self._device, name)
        return FailoverSender(senders, rank, lambda peer: self._server.cut(peer.name))

    def close(self) -> None:
        self._server.close()
        torch.cuda.synchronize(self._device)
        self._memory = None
        if self._shared is not None:
            self._shared.close()

    def _scratch(self, pool: torch.Tensor) -> Pieces:
        assert self._memory is not None, "allocate comes first"
        own = Pieces.of(pool)
        start = -(-pool.numel() * pool.element_size() // 256) * 256
        num_blocks = (self._memory.numel() - start) // num_bytes_per_block(pool)
        address = self._memory.data_ptr() + start
        return Pieces.contiguous(address, own.num_layers, num_blocks, own.piece_bytes)

    def _staging(self, pool: torch.Tensor, memory: mmap, geometry: RelayGeometry) -> CudaStaging:
        return CudaStaging(Pieces.of(pool), self._scratch(pool), self._device, memory, geometry)
