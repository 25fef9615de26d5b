"""GPU workers whose devices do not reach one another: KV goes through pinned host memory that both processes map.

::

    sender    pool --gather kernel--> staging --copy engine--> slot        slots of one memory file (memfd), pinned by both:
    receiver                                  slot --copy engine--> staging --scatter kernel--> pool       while one is emptied
                                                                                                           others are filled
A socket (see ``pool_server``) says which slot holds which blocks, and which is empty again; when either side dies, it tells the other.
"""

import mmap
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from nanopd.errors import TransferError
from nanopd.kv_transfer.pool_server import Connection, Wish, ask
from nanopd.kv_transfer.relay_wire import SERVICE, Fence, RelayGeometry, Staging, decode_emptied, encode_filled
from nanopd.kv_transfer.transport import PoolHandle, PushResult

_PROBE_SLOTS = 8  # what a probe moves
_READ_AHEAD = 2  # one being copied and one queued: more would keep the first from being announced


@dataclass(frozen=True, slots=True)
class _Push:
    push_id: str
    destination: PoolHandle
    source_ids: Sequence[int]
    destination_ids: Sequence[int]
    to_scratch: bool = False
    ended: "queue.SimpleQueue[PushResult] | None" = None  # a probe waits here for its own result


class PinnedRelaySender:
    """See ``LinkSender``. One thread carries the pushes in order, so that compute goes on."""

    transport = "pinned_relay"

    def __init__(
        self, name: str, num_blocks: int, block_bytes: int, make_staging: Callable[[mmap.mmap, RelayGeometry], Staging]
    ) -> None:
        """``name``: of our own pool, as peers know it, with ``num_blocks`` blocks of ``block_bytes`` over all layers."""
        self._name = name
        self._num_blocks = num_blocks
        self._block_bytes = block_bytes
        self._geometry = RelayGeometry.for_blocks(block_bytes)
        self._make_staging = make_staging
        self._links: dict[str, _Link] = {}  # by destination; the thread's own
        self._queue: queue.SimpleQueue[_Push | str | None] = queue.SimpleQueue()  # a name: forget it
        self._results: deque[PushResult] = deque()  # appended by the thread, popped by poll; both atomic
        self._in_flight: set[str] = set()
        self._cancelled: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="nanopd-kv-relay", daemon=True)
        self._thread.start()

    def meet(self, destination: PoolHandle) -> None:
        """The link is made with the first push."""

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        self._in_flight.add(push_id)
        self._queue.put(_Push(push_id, destination, source_ids, destination_ids))

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
        self._queue.put(destination.name)

    def close(self) -> None:
        self._cancelled |= self._in_flight
        self._queue.put(None)
        self._thread.join()

    def probe(self, destination: PoolHandle) -> float:
        ended: queue.SimpleQueue[PushResult] = queue.SimpleQueue()
        ids = list(range(min(self._geometry.blocks_per_slot, self._num_blocks))) * _PROBE_SLOTS
        best = 0.0
        for _ in range(3):  # the first makes the link
            self._queue.put(_Push("probe", destination, ids, ids, to_scratch=True, ended=ended))
            result = ended.get()
            if result.error is not None:
                raise TransferError(result.error)
            best = max(best, result.num_bytes / result.transfer_ms / 1e6)
        return best

    # ---- the thread

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, str):
                self._drop(item)
                continue
            began = time.perf_counter()
            try:
                num_bytes, error = self._carry(item)
            except Exception as failure:  # goes to whoever waits for the push: the thread must outlive it
                self._drop(item.destination.name)
                num_bytes, error = 0, f"{type(failure).__name__}: {failure}"
            elapsed_ms = (time.perf_counter() - began) * 1e3
            result = PushResult(item.push_id, num_bytes, elapsed_ms, error)
            self._results.append(result) if item.ended is None else item.ended.put(result)
        for name in list(self._links):
            self._drop(name)

    def _carry(self, push: _Push) -> tuple[int, str | None]:
        """Fills slots as they become free and announces them as they become full. Returns bytes written and, if it stopped early, why."""
        link = self._link(push.destination)
        todo = self._portions(push)
        filling: deque[tuple[int, Fence, Sequence[int]]] = deque()
        while True:
            while link.free and todo and len(filling) < _READ_AHEAD and push.push_id not in self._cancelled:
                slot, (source_ids, destination_ids) = link.free.popleft(), todo.popleft()
                filling.append((slot, link.staging.read(slot, source_ids), destination_ids))
            if filling:
                slot, fence, destination_ids = filling.popleft()
                fence.synchronize()
                link.announce(encode_filled(slot, push.to_scratch, destination_ids))
                link.take_back(wait=False)
            elif len(link.free) < self._geometry.num_slots:
                link.take_back(wait=True)
            else:
                num_left = sum(len(source_ids) for source_ids, _ in todo)
                num_bytes = (len(push.source_ids) - num_left) * self._block_bytes
                return num_bytes, "cancelled" if todo else None

    def _portions(self, push: _Push) -> deque[tuple[Sequence[int], Sequence[int]]]:
        step = self._geometry.blocks_per_slot
        starts = range(0, len(push.source_ids), step)
        return deque((push.source_ids[i : i + step], push.destination_ids[i : i + step]) for i in starts)

    def _link(self, destination: PoolHandle) -> "_Link":
        link = self._links.get(destination.name)
        if link is None:
            link = _Link.open(destination, self._name, self._geometry, self._make_staging)
            self._links[destination.name] = link
        return link

    def _drop(self, name: str) -> None:
        link = self._links.pop(name, None)
        if link is not None:
            link.close()


@dataclass(slots=True)
class _Link:
    """The slots shared with one receiver."""

    connection: Connection
    staging: Staging
    free: deque[int] = field(default_factory=deque)

    @classmethod
    def open(
        cls,
        destination: PoolHandle,
        name: str,
        geometry: RelayGeometry,
        make_staging: Callable[[mmap.mmap, RelayGeometry], Staging],
    ) -> "_Link":
        """Raises TransferError."""
        descriptor = os.memfd_create("nanopd-kv-relay")
        try:
            os.ftruncate(descriptor, geometry.num_bytes)
            staging = make_staging(mmap.mmap(descriptor, geometry.num_bytes), geometry)
            try:
                wish = Wish(SERVICE, name, msgspec.structs.asdict(geometry))
                connection, _, _ = ask(destination.name, wish, [descriptor])
            except TransferError:
                staging.close()
                raise
        finally:
            os.close(descriptor)
        return cls(connection, staging, deque(range(geometry.num_slots)))

    def announce(self, packet: bytes) -> None:
        """Says that a slot is full. Raises TransferError with the receiver's last words if it takes no more."""
        try:
            self.connection.send(packet)
        except OSError:
            while True:  # ends: a receiver that takes no more hangs up
                self.take_back(wait=True)

    def take_back(self, *, wait: bool) -> None:
        """Notes the slots that the receiver has emptied. Raises TransferError when it is gone or gives up."""
        while (packet := self.connection.receive() if wait else self.connection.receive_now()) is not None:
            if not packet:
                raise TransferError("the receiver has hung up")
            try:
                self.free.append(decode_emptied(packet))
            except ValueError as refusal:
                raise TransferError(f"the receiver gave up: {refusal}") from None
            wait = False

    def close(self) -> None:
        """Returns when neither side touches the slots any more."""
        self.connection.say_goodbye()
        while self.connection.receive():
            pass
        self.connection.close()
        self.staging.close()
