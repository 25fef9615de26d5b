"""Several transports to the same destination: the fastest carries, and one that fails hands its pushes to the next."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nanopd.errors import TransferError
from nanopd.kv_transfer.transport import LinkSender, PoolHandle, PushResult

logger = logging.getLogger(__name__)

Ranking = Callable[[PoolHandle, Sequence[LinkSender]], list[str]]  # names of the transports that work, the best first


@dataclass(slots=True)
class _Push:
    """One push on its way, by ``carrier``."""

    destination: PoolHandle
    source_ids: Sequence[int]
    destination_ids: Sequence[int]
    carrier: str = ""
    is_cancelled: bool = field(default=False)


class FailoverSender:
    """See ``KvSender``. A push that failed is carried anew by the next transport: its report promises that nothing of it is still being written."""

    def __init__(
        self, senders: Sequence[LinkSender], rank: Ranking, on_forget: Callable[[PoolHandle], None] = lambda _: None
    ) -> None:
        """``rank`` is asked once per destination; ``on_forget`` hears that a destination's worker is gone."""
        self._senders = {sender.transport: sender for sender in senders}
        self._rank = rank
        self._on_forget = on_forget
        self._routes: dict[str, list[str]] = {}  # by destination: the transports that have not failed, the best first
        self._pushes: dict[str, _Push] = {}
        self._failed: list[PushResult] = []

    def meet(self, destination: PoolHandle) -> None:
        """A new peer: finds out, over the real paths, which transports reach it and how fast."""
        self._routes[destination.name] = self._rank(destination, list(self._senders.values()))

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        if destination.name not in self._routes:
            self.meet(destination)
        push = _Push(destination, source_ids, destination_ids)
        if (error := self._start(push_id, push)) is not None:
            raise TransferError(error)

    def poll(self) -> list[PushResult]:
        results, self._failed = self._failed, []
        for name, sender in self._senders.items():
            for result in sender.poll():
                push = self._pushes.get(result.push_id)
                if push is None or push.carrier != name:
                    continue
                if result.error is None or push.is_cancelled:
                    del self._pushes[result.push_id]
                    results.append(replace(result, transport=name))
                    continue
                self._strike(push.destination, name, result.error)
                if (error := self._start(result.push_id, push)) is not None:
                    results.append(PushResult(result.push_id, 0, result.transfer_ms, error, name))
        return results

    def cancel(self, push_id: str) -> None:
        push = self._pushes.get(push_id)
        if push is not None:
            push.is_cancelled = True
            self._senders[push.carrier].cancel(push_id)

    def forget(self, destination: PoolHandle) -> None:
        self._routes.pop(destination.name, None)
        for sender in self._senders.values():
            sender.forget(destination)
        self._on_forget(destination)

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()

    def _start(self, push_id: str, push: _Push) -> str | None:
        """Hands a push to the best transport left; why not, if none takes it."""
        error = "no transport reaches it"
        for name in list(self._routes.get(push.destination.name, ())):
            push.carrier = name
            self._pushes[push_id] = push
            try:
                self._senders[name].push(push_id, push.destination, push.source_ids, push.destination_ids)
                return None
            except TransferError as failure:
                error = str(failure)
                self._strike(push.destination, name, error)
        self._pushes.pop(push_id, None)
        return error

    def _strike(self, destination: PoolHandle, name: str, error: str) -> None:
        """A transport has failed: not used for this destination any more."""
        route = self._routes.get(destination.name, [])
        if name in route:
            route.remove(name)
            logger.warning(
                "KV transport %s to %s has failed (%s); next: %s",
                name,
                destination.name,
                error,
                " ".join(route) or "none",
            )
