"""What an engine has to tell its worker after a step."""

from dataclasses import dataclass

from nanopd.batch import Batch
from nanopd.messages import StepTiming
from nanopd.scheduler import ComputedRange, EndedSeq, Reservation, SeqOutput

__all__ = ["ComputedRange", "EndedSeq", "Reservation", "SeqOutput", "StepReport", "step_timing"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """Everything that happened since the last report."""

    outputs: tuple[SeqOutput, ...] = ()
    reserved: tuple[Reservation, ...] = ()
    computed: tuple[ComputedRange, ...] = ()  # held prefills only
    ended: tuple[EndedSeq, ...] = ()
    timing: StepTiming | None = None  # of the step whose result came in, if one did


def step_timing(batch: Batch, step_ms: float) -> StepTiming:
    """What a step consisted of, for the cost model."""
    work = batch.work()
    return StepTiming(
        work.num_prefill_tokens,
        work.prefill_attention,
        work.num_decodes,
        work.decode_context,
        step_ms,
        work.num_prefills,
    )
