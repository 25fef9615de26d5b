"""One worker's engine: ``schedule -> submit -> update`` over a scheduler and an executor."""

from nanopd.engine.draft_model import DraftModel
from nanopd.engine.engine import Engine
from nanopd.engine.executor import Executor, StepHandle
from nanopd.engine.report import ComputedRange, EndedSeq, Reservation, SeqOutput, StepReport

__all__ = [
    "ComputedRange",
    "DraftModel",
    "EndedSeq",
    "Engine",
    "Executor",
    "Reservation",
    "SeqOutput",
    "StepHandle",
    "StepReport",
]
