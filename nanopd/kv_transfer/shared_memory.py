"""CPU workers of one host: each KV pool is an anonymous memory file that peers map, and a thread copies whole blocks into.

The pool is a Linux ``memfd``, reached by peers as ``/proc/<pid>/fd/<fd>``. Unlike a file in /dev/shm it has no name to leave behind: whatever
kills a worker, the kernel frees the memory with the last mapping. Nor does it count against the size of /dev/shm (64 MB in many containers).

Shape legend: L layers, N blocks, B bytes of one block in one layer.
"""

import mmap
import os
import secrets
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from nanopd.errors import TransferError
from nanopd.kv_transfer.block_runs import block_runs
from nanopd.kv_transfer.endpoint import describe_pool
from nanopd.kv_transfer.push_thread import Copied, PushThread
from nanopd.kv_transfer.transport import KvSender, PoolHandle, PushResult

_COPY_BYTES = 4 << 20  # between two looks at the cancelled pushes: about a millisecond of copying


class SharedMemoryEndpoint:
    """See ``KvEndpoint``."""

    transport = "shared_memory"

    def __init__(self, worker_id: str) -> None:
        self._label = f"nanopd-kv-{worker_id}-{secrets.token_hex(8)}"
        self._fd: int | None = None

    def allocate(self, num_bytes: int) -> torch.Tensor:
        assert self._fd is None, "a worker has one pool"
        try:
            self._fd = os.memfd_create(self._label)
            os.ftruncate(self._fd, num_bytes)
            return torch.frombuffer(mmap.mmap(self._fd, num_bytes), dtype=torch.uint8)
        except OSError as error:
            raise TransferError(f"cannot map {num_bytes} bytes of shared memory for the KV pool: {error}") from error

    def export(self, pool: torch.Tensor) -> PoolHandle:
        assert self._fd is not None, "allocate comes first"
        return describe_pool(pool, self.transport, f"{os.getpid()}/{self._fd}/{self._label}")

    def sender(self, pool: torch.Tensor) -> KvSender:
        return SharedMemorySender(pool)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def map_pool(handle: PoolHandle) -> np.ndarray:
    """Another worker's pool as writable bytes, uint8 [L, N, B]; unmapped when the array is dropped. Raises TransferError."""
    if handle.transport != SharedMemoryEndpoint.transport:
        raise TransferError(f"a CPU worker does not reach the KV pool {handle.name} on {handle.device}")
    pid, fd, label = handle.name.split("/", 2)
    try:
        mine = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
    except OSError as error:
        raise TransferError(f"the KV pool {label} cannot be reached: {error}") from error
    try:
        if os.readlink(f"/proc/self/fd/{mine}") != f"/memfd:{label} (deleted)":  # the pid was reused
            raise TransferError(f"the KV pool {label} is gone")
        mapping = mmap.mmap(mine, 0)
    finally:
        os.close(mine)
    return np.frombuffer(mapping, dtype=np.uint8).reshape(handle.num_layers, handle.num_blocks, -1)


class SharedMemorySender:
    """See ``KvSender``. One thread copies, without the interpreter's lock (numpy's way)."""

    def __init__(self, pool: torch.Tensor) -> None:
        self._source_LNB = pool.view(torch.uint8).flatten(2).numpy()
        num_layers, _, block_bytes = self._source_LNB.shape
        self._blocks_per_copy = max(1, _COPY_BYTES // (num_layers * block_bytes))
        self._mapped: dict[str, np.ndarray] = {}
        self._thread = PushThread("nanopd-kv-sender")

    def meet(self, destination: PoolHandle) -> None:
        """It is mapped at the first push."""

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        target_LNB = self._mapped.get(destination.name)
        if target_LNB is None:
            target_LNB = self._mapped[destination.name] = map_pool(destination)
        ours, theirs = self._source_LNB.shape[::2], target_LNB.shape[::2]
        if ours != theirs:
            raise TransferError(f"blocks of the two pools differ in [layers, bytes]: {ours} and {theirs}")
        self._thread.start(push_id, partial(self._copy, push_id, target_LNB, source_ids, destination_ids))

    def poll(self) -> list[PushResult]:
        return self._thread.poll()

    def cancel(self, push_id: str) -> None:
        self._thread.cancel(push_id)

    def forget(self, destination: PoolHandle) -> None:
        self._mapped.pop(destination.name, None)

    def close(self) -> None:
        self._thread.close()
        self._mapped.clear()

    def _copy(
        self, push_id: str, target_LNB: np.ndarray, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> Copied:
        num_bytes = 0
        for source, target, count in block_runs(source_ids, destination_ids, self._blocks_per_copy):
            if self._thread.is_cancelled(push_id):
                return num_bytes, "cancelled"
            blocks_LNB = self._source_LNB[:, source : source + count]
            target_LNB[:, target : target + count] = blocks_LNB
            num_bytes += blocks_LNB.nbytes
        return num_bytes, None
