"""CPU workers of one host: each KV pool is an anonymous memory file that peers map, and a thread copies whole blocks into.

The pool is a Linux ``memfd``, reached by peers as ``/proc/<pid>/fd/<fd>``. Unlike a file in /dev/shm it has no name to leave behind: whatever
kills a worker, the kernel frees the memory with the last mapping. Nor does it count against the size of /dev/shm (64 MB in many containers).

Shape legend: L layers, N blocks, B bytes of one block in one layer.
"""

import mmap
import os
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nanopd.errors import TransferError
from nanopd.kv_transfer.block_runs import block_runs
from nanopd.kv_transfer.endpoint import describe_pool
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


@dataclass(frozen=True, slots=True)
class _Push:
    push_id: str
    target_LNB: np.ndarray
    source_ids: Sequence[int]
    destination_ids: Sequence[int]


class SharedMemorySender:
    """See ``KvSender``. Pushes are copied in order by one thread, so that compute goes on (numpy copies without the GIL)."""

    def __init__(self, pool: torch.Tensor) -> None:
        self._source_LNB = pool.view(torch.uint8).flatten(2).numpy()
        num_layers, _, block_bytes = self._source_LNB.shape
        self._blocks_per_copy = max(1, _COPY_BYTES // (num_layers * block_bytes))
        self._mapped: dict[str, np.ndarray] = {}
        self._queue: queue.SimpleQueue[_Push | None] = queue.SimpleQueue()
        self._results: deque[PushResult] = deque()  # appended by the thread, popped by poll; both atomic
        self._cancelled: set[str] = set()
        self._in_flight: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="nanopd-kv-sender", daemon=True)
        self._thread.start()

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
        self._in_flight.add(push_id)
        self._queue.put(_Push(push_id, target_LNB, source_ids, destination_ids))

    def poll(self) -> list[PushResult]:
        results = [self._results.popleft() for _ in range(len(self._results))]
        for result in results:
            self._in_flight.discard(result.push_id)
            self._cancelled.discard(result.push_id)
        return results

    def cancel(self, push_id: str) -> None:
        if push_id in self._in_flight:
            self._cancelled.add(push_id)

    def forget(self, destination: PoolHandle) -> None:
        self._mapped.pop(destination.name, None)

    def close(self) -> None:
        self._cancelled |= self._in_flight
        self._queue.put(None)
        self._thread.join()
        self._mapped.clear()

    def _run(self) -> None:
        while (push := self._queue.get()) is not None:
            began = time.perf_counter()
            try:
                num_bytes, error = self._copy(push)
            except Exception as failure:  # goes to whoever waits for the push: the thread must outlive it
                num_bytes, error = 0, f"{type(failure).__name__}: {failure}"
            self._results.append(PushResult(push.push_id, num_bytes, (time.perf_counter() - began) * 1e3, error))

    def _copy(self, push: _Push) -> tuple[int, str | None]:
        """Returns bytes written and, if it stopped early, why."""
        num_bytes = 0
        for source, target, count in block_runs(push.source_ids, push.destination_ids, self._blocks_per_copy):
            if push.push_id in self._cancelled:
                return num_bytes, "cancelled"
            blocks_LNB = self._source_LNB[:, source : source + count]
            push.target_LNB[:, target : target + count] = blocks_LNB
            num_bytes += blocks_LNB.nbytes
        return num_bytes, None
