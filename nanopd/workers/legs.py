"""The legs a worker has open. The engine knows a leg as a sequence, ``seq_id``; the controller knows it as a ``Leg``."""

from dataclasses import dataclass

from nanopd.messages import Leg, LegEnded, LegState, LegTimes
from nanopd.workers.handoff import Handoff


def seq_id_of(leg: Leg) -> str:
    """The engine's key of a leg."""
    return f"{leg.request_id}#{leg.attempt}"


@dataclass(slots=True)
class OpenLeg:
    """One leg between its opening message and its LegEnded.

    ``ending`` is decided before it is sent: the leg stays open until its pushes have settled and, when the engine was asked to abort, the engine
    has given the blocks back.
    """

    leg: Leg
    state: LegState = LegState.RUNNING
    handoff: Handoff | None = None  # prefill legs only
    reserved_ids: tuple[int, ...] = ()  # decode legs: blocks that are being written by a peer
    first_token_at: float | None = None  # seconds, when a prefill leg sampled its token
    times: LegTimes = LegTimes()
    ending: LegEnded | None = None
    is_released: bool = False  # prefill legs: the engine was told that nobody reads the blocks any more
    waits_for_engine: bool = False  # it was asked to abort and has not said that the sequence has ended

    @property
    def seq_id(self) -> str:
        return seq_id_of(self.leg)
