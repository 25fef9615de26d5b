"""GPU workers whose devices do not reach one another: KV goes through pinned host memory that both processes map.

::

    sender    pool --gather kernel--> staging --copy engine--> slot        slots of one memory file (memfd), pinned by both:
    receiver                                  slot --copy engine--> staging --scatter kernel--> pool       while one is emptied
                                                                                                           others are filled
A slot holds blocks and where they go (see ``relay_wire``). A socket (see ``pool_server``) says which is full and which is empty again; when either
side dies, it tells the other.
"""

import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from nanopd.errors import TransferError
from nanopd.kv_transfer.pool_server import Connection, Wish, ask
from nanopd.kv_transfer.push_thread import Copied, PushThread
from nanopd.kv_transfer.relay_wire import SERVICE, Fence, RelayGeometry, Staging, decode_emptied, encode_filled
from nanopd.kv_transfer.transport import PoolHandle, PushResult

_PROBE_SLOTS = 8  # what a probe moves
_READ_AHEAD = 3  # one being copied and two queued, so that the copy engine has work until this thread has woken up


_Portion = tuple[Any, Sequence[int]]  # for one slot: source ids as the staging wants them, destination ids


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
        self._thread = PushThread("nanopd-kv-relay")

    def meet(self, destination: PoolHandle) -> None:
        """The link is made with the first push."""

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        self._thread.start(push_id, partial(self._carry, push_id, destination, source_ids, destination_ids))

    def poll(self) -> list[PushResult]:
        return self._thread.poll()

    def cancel(self, push_id: str) -> None:
        self._thread.cancel(push_id)

    def forget(self, destination: PoolHandle) -> None:
        self._thread.call(partial(self._drop, destination.name))

    def close(self) -> None:
        self._thread.close()
        for name in list(self._links):
            self._drop(name)

    def probe(self, destination: PoolHandle) -> float:
        try:
            return self._thread.call(partial(self._probe, destination)).result()
        except (OSError, ValueError, RuntimeError) as failure:  # RuntimeError: CUDA's
            raise TransferError(f"{type(failure).__name__}: {failure}") from failure

    # ---- the thread

    def _probe(self, destination: PoolHandle) -> float:
        ids = list(range(min(self._geometry.blocks_per_slot, self._num_blocks))) * _PROBE_SLOTS
        best = 0.0
        for _ in range(3):  # the first makes the link
            began = time.perf_counter()
            num_bytes, _ = self._carry("probe", destination, ids, ids, to_scratch=True)
            best = max(best, num_bytes / (time.perf_counter() - began) / 1e9)
        return best

    def _carry(
        self,
        push_id: str,
        destination: PoolHandle,
        source_ids: Sequence[int],
        destination_ids: Sequence[int],
        to_scratch: bool = False,
    ) -> Copied:
        try:
            link = self._link(destination)
            todo = self._portions(link.staging.load(source_ids), destination_ids)
            self._fill(link, todo, push_id, to_scratch)
        except Exception:  # nobody knows what the slots hold
            self._drop(destination.name)
            raise
        num_left = sum(len(ids) for _, ids in todo)
        return (len(source_ids) - num_left) * self._block_bytes, "cancelled" if todo else None

    def _fill(self, link: "_Link", todo: "deque[_Portion]", push_id: str, to_scratch: bool) -> None:
        """Fills slots as they become free and announces them as they become full; ends with all empty, and what was cancelled still in ``todo``."""
        filling: deque[tuple[int, Fence, int]] = deque()
        while True:
            while link.free and todo and len(filling) < _READ_AHEAD and not self._thread.is_cancelled(push_id):
                slot, (source_ids, destination_ids) = link.free.popleft(), todo.popleft()
                fence = link.staging.read(slot, source_ids, destination_ids)
                filling.append((slot, fence, len(destination_ids)))
            if filling:
                slot, fence, num_blocks = filling.popleft()
                fence.synchronize()
                link.announce(encode_filled(slot, num_blocks, to_scratch))
                link.take_back(wait=False)
            elif len(link.free) < self._geometry.num_slots:
                link.take_back(wait=True)
            else:
                return

    def _portions(self, source_ids: Any, destination_ids: Sequence[int]) -> "deque[_Portion]":
        step = self._geometry.blocks_per_slot
        starts = range(0, len(destination_ids), step)
        return deque((source_ids[i : i + step], destination_ids[i : i + step]) for i in starts)

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
