"""What scheduling and finished steps mean for the legs: the parts of an engine's report."""

from array import array
from dataclasses import dataclass, field

import msgspec

from nanopd.messages import LegTimes
from nanopd.request import FinishReason, Hypothesis, TokenLogprobs


class SeqOutput(msgspec.Struct, frozen=True, gc=False):
    """New tokens of one sequence. The stop token that ends a sequence is among them.

    ``finish_reason`` set: this is the sequence's last word and its blocks are given back, except for a held prefill: there it says that the
    request is complete with its first token, and the blocks stay until ``release``.
    """

    seq_id: str
    first_index: int  # index of token_ids[0] in the request's output, tokens given at admission included
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...] = ()  # one per token when asked for
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = (
        None  # with the first token when asked for: of prompt tokens 1, 2, ...
    )
    finish_reason: FinishReason | None = None
    times: LegTimes = LegTimes()  # complete when finish_reason is set, and with the token of a held prefill
    hypotheses: tuple[Hypothesis, ...] = ()  # of a beam search, best first: token_ids are those of the first


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks are set aside for a sequence whose KV another worker computes."""

    seq_id: str
    block_ids: tuple[int, ...]  # those to be written, in sequence order, from num_resident_tokens on
    num_resident_tokens: int  # a multiple of the block size: already here, in the prefix cache


@dataclass(frozen=True, slots=True)
class ComputedRange:
    """The KV of positions [0, end) of a held prefill is in its blocks."""

    seq_id: str
    end: int
    block_table: array  # int32, the whole sequence's; stays as it is until release


@dataclass(frozen=True, slots=True)
class EndedSeq:
    """A sequence ended without finishing and nothing of it is left: aborted, or ``error`` says why it cannot be served."""

    seq_id: str
    error: str | None = None


@dataclass(slots=True)
class Outcomes:
    """Collects outcomes between two reports."""

    outputs: list[SeqOutput] = field(default_factory=list)
    reserved: list[Reservation] = field(default_factory=list)
    computed: list[ComputedRange] = field(default_factory=list)
    ended: list[EndedSeq] = field(default_factory=list)
