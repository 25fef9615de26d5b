"""The receiving half of the pinned relay: empties slots of shared host memory into the worker's own pool, on threads of their own."""

import mmap
import os
import queue
import struct
import threading
from collections.abc import Callable

import msgspec

from nanopd.errors import TransferError
from nanopd.kv_transfer.pool_server import Connection, Service, Wish
from nanopd.kv_transfer.relay_wire import Fence, RelayGeometry, Staging, decode_filled, encode_emptied

MakeStaging = Callable[[mmap.mmap, RelayGeometry], Staging]


def serve_relay(make_staging: MakeStaging) -> Service:
    """Serves senders that bring the slots as a descriptor of shared memory, until they hang up or are cut off."""

    def serve(connection: Connection, wish: Wish, descriptors: list[int]) -> None:
        try:
            geometry = msgspec.convert(wish.details, RelayGeometry)
            memory = mmap.mmap(descriptors[0], geometry.num_bytes)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        staging = make_staging(memory, geometry)
        try:
            connection.send(b"{}")
            _empty_slots(connection, staging)
        except (TransferError, RuntimeError, ValueError, struct.error) as error:  # RuntimeError: CUDA's
            staging.close()  # first: once we say that we gave up, nothing of it may be written any more
            connection.send(f"{type(error).__name__}: {error}".encode())
        finally:
            staging.close()

    return serve


def _empty_slots(connection: Connection, staging: Staging) -> None:
    """Starts on every slot as soon as it is announced; another thread answers when its blocks are in the pool, so that nothing waits for that."""
    writing: queue.SimpleQueue[tuple[int, Fence] | None] = queue.SimpleQueue()
    failures: list[Exception] = []

    def answer() -> None:
        try:
            while (item := writing.get()) is not None:
                slot, fence = item
                fence.synchronize()
                connection.send(encode_emptied(slot))
        except Exception as failure:  # of the copy, or the sender is gone: either way no more is to be taken
            failures.append(failure)
            connection.cut()

    thread = threading.Thread(target=answer, name="nanopd-relay-answers", daemon=True)
    thread.start()
    try:
        while packet := connection.receive():
            slot, num_blocks, to_scratch = decode_filled(packet)
            writing.put((slot, staging.write(slot, num_blocks, to_scratch)))
    finally:
        writing.put(None)
        thread.join()
    if failures:
        raise failures[0]
