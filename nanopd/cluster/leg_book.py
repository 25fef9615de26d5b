"""The open legs of all requests, and the rule that keeps a hand-off safe when it is broken off.

A decode worker's reserved blocks have two lifetimes: their owner, and the fence of the prefill leg that may still write into them. So a reservation
is aborted only after the prefill leg that fills it has ended, or its worker is gone. Legs outlive their request: the client has its answer at once,
the legs close when the workers say so.
"""

from dataclasses import dataclass
from enum import StrEnum

from nanopd.cluster.events import Send
from nanopd.messages import Abort, Leg


class LegKind(StrEnum):
    """What a worker does in a leg."""

    LOCAL = "local"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(slots=True, eq=False)
class OpenLeg:
    """A leg a worker has been told to open and has not ended."""

    leg: Leg
    kind: LegKind
    worker_id: str
    incarnation: int
    opened_at: float
    is_open: bool = True
    aborted_at: float | None = None  # when Abort was sent
    abort_wanted: bool = False  # Abort is due once ``writer`` has ended
    writer: "OpenLeg | None" = None  # DECODE: the open prefill leg that may still write into its blocks
    fills: "OpenLeg | None" = None  # PREFILL: the decode leg whose blocks it writes into


class LegBook:
    """Open legs by worker, incarnation and leg."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], dict[Leg, OpenLeg]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def open(
        self, leg: Leg, kind: LegKind, worker_id: str, incarnation: int, now: float, fills: OpenLeg | None = None
    ) -> OpenLeg:
        """A leg is being opened on a worker; a prefill leg names the decode leg it ``fills``."""
        legs = self._open.setdefault((worker_id, incarnation), {})
        assert leg not in legs, f"{leg} is open already on {worker_id}"
        entry = OpenLeg(leg, kind, worker_id, incarnation, now, fills=fills)
        if fills is not None:
            fills.writer = entry
        legs[leg] = entry
        return entry

    def get(self, worker_id: str, incarnation: int, leg: Leg) -> OpenLeg | None:
        legs = self._open.get((worker_id, incarnation))
        return legs.get(leg) if legs is not None else None

    def of_worker(self, worker_id: str, incarnation: int) -> list[OpenLeg]:
        return list(self._open.get((worker_id, incarnation), {}).values())

    def close(self, entry: OpenLeg, now: float) -> list[Send]:
        """A leg has ended: nothing of it can write any more. Returns the abort that was waiting for this."""
        del self._open[(entry.worker_id, entry.incarnation)][entry.leg]
        entry.is_open = False
        filled, entry.fills = entry.fills, None
        if filled is None:
            return []
        filled.writer = None
        return self.abort(filled, now) if filled.abort_wanted else []

    def abort(self, entry: OpenLeg, now: float) -> list[Send]:
        """Asks for the end of a leg; a reservation's end waits for its writer's."""
        if not entry.is_open or entry.aborted_at is not None:
            return []
        if entry.writer is not None:
            entry.abort_wanted = True
            return self.abort(entry.writer, now)
        entry.aborted_at = now
        return [Send(entry.worker_id, entry.incarnation, Abort(entry.leg))]
