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
    num_prefill_tokens = num_prefills = num_decodes = decode_context = 0
    prefill_attention = 0.0
    for piece in batch.slices:
        start, num_tokens = piece.start, piece.num_tokens
        if num_tokens == 1 and start > 0:
            num_decodes += 1
            decode_context += start + 1
        else:
            num_prefills += 1
            num_prefill_tokens += num_tokens
            prefill_attention += num_tokens * (start + (num_tokens + 1) / 2)  # the token at position p sees p + 1 keys
    return StepTiming(num_prefill_tokens, prefill_attention, num_decodes, decode_context, step_ms, num_prefills)
