"""A ``KvSender`` that notes when its pushes begin and end."""

from collections.abc import Sequence

from nanopd.clock import Clock
from nanopd.kv_transfer.transport import KvSender, PoolHandle, PushResult
from nanopd.tracing.logs import TracedPush
from nanopd.tracing.recorder import Recorder


class TracedSender:
    """Hands everything on to ``sender``."""

    def __init__(self, sender: KvSender, recorder: Recorder, clock: Clock) -> None:
        self._sender, self._recorder, self._clock = sender, recorder, clock
        self._begun: dict[str, tuple[float, int]] = {}  # when, and how many blocks

    def meet(self, destination: PoolHandle) -> None:
        self._sender.meet(destination)

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        began = self._clock.now()
        self._sender.push(push_id, destination, source_ids, destination_ids)
        self._begun[push_id] = began, len(source_ids)

    def poll(self) -> list[PushResult]:
        results = self._sender.poll()
        for result in results:
            if (begun := self._begun.pop(result.push_id, None)) is not None:
                began, num_blocks = begun
                ended = self._clock.now()
                push = TracedPush(
                    result.push_id, began, ended, num_blocks, result.num_bytes, result.transport, result.error
                )
                self._recorder.pushed(push)
        return results

    def cancel(self, push_id: str) -> None:
        self._sender.cancel(push_id)

    def forget(self, destination: PoolHandle) -> None:
        self._sender.forget(destination)

    def close(self) -> None:
        self._sender.close()
