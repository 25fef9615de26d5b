"""A leg's beginning and end, with all that follows from it: an entry in the book, load on its worker, a deadline for an abort."""

from collections.abc import Iterable

from nanopd.cluster.deadlines import Deadlines, Wait
from nanopd.cluster.events import Send
from nanopd.cluster.leg_book import LegBook, LegKind, OpenLeg
from nanopd.cluster.registry import Registry
from nanopd.cluster.tracked_request import TrackedRequest
from nanopd.messages import Abort


class Legs:
    """The only way legs are opened, aborted and closed. What is to be sent for it is returned."""

    def __init__(self, workers: Registry, deadlines: Deadlines, abort_timeout_s: float) -> None:
        self.book = LegBook()
        self._workers = workers
        self._deadlines = deadlines
        self._abort_timeout_s = abort_timeout_s

    def open(
        self, tracked: TrackedRequest, kind: LegKind, worker_id: str, now: float, fills: OpenLeg | None = None
    ) -> None:
        """The request's current attempt goes to ``worker_id``; see ``LegBook.open``."""
        entry = self.book.open(tracked.leg, kind, worker_id, self._workers[worker_id].incarnation, now, fills)
        tracked.legs.append(entry)
        num_tokens = len(tracked.request.prompt_token_ids) + len(tracked.output)
        self._workers.leg_opened(entry, num_tokens, tracked.decision.chosen.num_cached_tokens)

    def close(self, entry: OpenLeg, now: float) -> list[Send]:
        """Nothing of it runs any more."""
        sends = self._with_deadline(self.book.close(entry, now), now)
        self._workers.leg_closed(entry)
        return sends

    def abort(self, entries: Iterable[OpenLeg], now: float) -> list[Send]:
        """Asks for the end of legs; they are closed when their workers say so."""
        return self._with_deadline([send for entry in entries for send in self.book.abort(entry, now)], now)

    def _with_deadline(self, aborts: list[Send], now: float) -> list[Send]:
        for send in aborts:
            assert isinstance(send.message, Abort)
            when, leg = now + self._abort_timeout_s, send.message.leg
            self._deadlines.add(when, Wait.ABORT, leg=leg, worker_id=send.worker_id, incarnation=send.incarnation)
        return aborts
