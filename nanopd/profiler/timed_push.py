"""One push, timed as a worker would see it."""

import time
from collections.abc import Sequence

from nanopd.errors import TransferError
from nanopd.kv_transfer.transport import KvSender, PoolHandle, PushResult

_NAP_S = 20e-6  # a sender may have a thread that needs the interpreter
_TIMEOUT_S = 60.0


def timed_push(
    sender: KvSender, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
) -> tuple[float, PushResult]:
    """Milliseconds from the push to its fence; nothing else may be in flight. Raises TransferError if it fails or does not end."""
    began = time.perf_counter()
    sender.push("timed", destination, source_ids, destination_ids)
    while not (results := sender.poll()):
        if time.perf_counter() - began > _TIMEOUT_S:
            raise TransferError(f"a push of {len(source_ids)} blocks did not end within {_TIMEOUT_S:.0f} s")
        time.sleep(_NAP_S)
    elapsed_ms = (time.perf_counter() - began) * 1e3
    if results[0].error is not None:
        raise TransferError(results[0].error)
    return elapsed_ms, results[0]
