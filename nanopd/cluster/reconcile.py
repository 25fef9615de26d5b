"""Comparing what the central scheduler believes with what a worker says: this is what makes the protocol survive any lost message."""

from dataclasses import dataclass

from nanopd.cluster.events import Send
from nanopd.cluster.leg_book import LegBook, OpenLeg
from nanopd.messages import Abort, Heartbeat, LegState
from nanopd.router import WorkerView


@dataclass(frozen=True, slots=True)
class Differences:
    """What does not agree."""

    missing: tuple[OpenLeg, ...] = ()  # believed open, but the worker does not have them
    unknown: tuple[Send, ...] = ()  # aborts for legs the worker has and nobody wants
    unstarted: tuple[OpenLeg, ...] = ()  # decode legs the worker still holds as reserved


def reconcile(legs: LegBook, worker: WorkerView, heartbeat: Heartbeat, now: float, grace_s: float) -> Differences:
    """Compares open legs with a heartbeat's. A leg opened (or aborted) within the grace before the worker's last look at its inbox is left alone."""
    if heartbeat.legs is None:
        return Differences()
    reported = dict(heartbeat.legs)
    seen_at = now - heartbeat.loop_age_s - grace_s
    entries = legs.of_worker(worker.worker_id, worker.incarnation)
    missing = tuple(e for e in entries if e.leg not in reported and e.opened_at < seen_at)
    unstarted = tuple(e for e in entries if reported.get(e.leg) is LegState.RESERVED)
    known = {e.leg for e in entries if e.aborted_at is None or e.aborted_at >= seen_at}
    unknown = tuple(Send(worker.worker_id, worker.incarnation, Abort(leg)) for leg in reported if leg not in known)
    return Differences(missing, unknown, unstarted)
