"""Which tokens of which sequences the next step computes: continuous batching, chunked prefill, preemption."""

from nanopd.scheduler.order import longest_first
from nanopd.scheduler.outcome import ComputedRange, EndedSeq, Outcomes, Reservation, SeqOutput
from nanopd.scheduler.plain_decodes import PlainDecodes
from nanopd.scheduler.scheduler import Scheduler
from nanopd.scheduler.sequence import LegKind
from nanopd.scheduler.uniform import stream_key, uniform

__all__ = [
    "ComputedRange",
    "EndedSeq",
    "LegKind",
    "Outcomes",
    "PlainDecodes",
    "Reservation",
    "Scheduler",
    "SeqOutput",
    "longest_first",
    "stream_key",
    "uniform",
]
