"""Comparing what the central scheduler believes with what a worker says: this is what makes the protocol survive any lost message.

A heartbeat tells what was so when it was sent; it may have waited long while the controller was held up, and a message to the worker may have
crossed it. So no leg is closed for not being in a heartbeat: its worker is asked to abort it, and only the answer, which comes after all that was
sent before, closes it. Until then the blocks that the leg may write into stay reserved.
"""

from dataclasses import dataclass

from nanopd.cluster.events import Send
from nanopd.cluster.leg_book import LegBook, OpenLeg
from nanopd.messages import Abort, Heartbeat, LegState
from nanopd.router import WorkerView


@dataclass(frozen=True, slots=True)
class Differences:
    """What does not agree."""

    missing: tuple[OpenLeg, ...] = ()  # believed open, but the worker does not tell of them
    aborts: tuple[
        Send, ...
    ] = ()  # for legs that the worker has and nobody wants, and for those whose abort was not answered
    unstarted: tuple[OpenLeg, ...] = ()  # decode legs the worker still holds as reserved


def reconcile(legs: LegBook, worker: WorkerView, heartbeat: Heartbeat, now: float, grace_s: float) -> Differences:
    """Compares open legs with a heartbeat's. A leg opened (or aborted) within the grace before the worker's last look at its inbox is left alone."""
    if heartbeat.legs is None:
        return Differences()
    reported = dict(heartbeat.legs)
    seen_at = now - heartbeat.loop_age_s - grace_s
    entries = legs.of_worker(worker.worker_id, worker.incarnation)
    absent = [e for e in entries if e.leg not in reported and e.opened_at < seen_at]
    missing = tuple(e for e in absent if e.aborted_at is None)
    unanswered = [e.leg for e in absent if e.aborted_at is not None and e.aborted_at < seen_at]
    unstarted = tuple(e for e in entries if reported.get(e.leg) is LegState.RESERVED)
    wanted = {e.leg for e in entries if e.aborted_at is None or e.aborted_at >= seen_at}
    unwanted = [leg for leg in reported if leg not in wanted]
    aborts = tuple(Send(worker.worker_id, worker.incarnation, Abort(leg)) for leg in (*unwanted, *unanswered))
    return Differences(missing, aborts, unstarted)
