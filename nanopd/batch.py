"""One step's work, as the scheduler states it and an executor carries it out. No tensors here.

What is built for every sequence of every step is a msgspec struct: a tenth of the time of a frozen dataclass (0.25 against 2.9 us).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from nanopd.request import SamplingParams, TokenLogprobs

BLOCK_TABLE_TYPECODE = "i"  # array('i'): int32, so a block table converts to a tensor row without a copy per id


class SampleSpec(msgspec.Struct, frozen=True, gc=False):
    """How to draw the token that follows a slice's last position."""

    params: SamplingParams
    uniform: float  # in [0, 1): fixed by (seed, position), so every path draws the same token
    prompt_token_ids: Sequence[int]  # for penalties; output ids complete only if params.needs_history
    output_token_ids: Sequence[int]
    suppressed_token_ids: tuple[int, ...] = ()  # stop tokens while below min_tokens


class SeqSlice(msgspec.Struct, frozen=True, gc=False):
    """One sequence's part of a step: tokens at positions ``[start, start + num_tokens)`` are fed, their KV is stored.

    ``token_ids`` holds their ids, except when ``previous_row`` is set: then ``num_tokens == 1`` and the id is the one sampled in row
    ``previous_row`` of the batch submitted just before (it may not have reached the host yet).
    """

    request_id: str
    token_ids: Sequence[int]
    num_tokens: int
    start: int
    block_table: array  # int32 block ids covering at least start + num_tokens positions
    previous_row: int | None = None
    sample: SampleSpec | None = None  # None: a prompt chunk that does not reach the end
    prompt_logprobs: int | None = None  # top-k of the log-probabilities of logprob_targets at each fed position
    logprob_targets: Sequence[
        int
    ] = ()  # the prompt token that follows each fed position (may be one shorter at the prompt's end)
    verify: tuple[
        SampleSpec, ...
    ] = ()  # the last len(verify) fed tokens are a draft: how the model draws in their places

    @property
    def end(self) -> int:
        """Context length once the step has run."""
        return self.start + self.num_tokens

    @property
    def num_rows(self) -> int:
        """Tokens sampled: one after each of the last ``num_rows`` fed positions, in their order."""
        return 0 if self.sample is None else 1 + len(self.verify)

    @property
    def is_decode(self) -> bool:
        """One token on a cached context: the shape decode kernels and CUDA graphs serve."""
        return self.num_tokens == 1 and self.start > 0


class BatchWork(NamedTuple):
    """How much a step does, by what its time depends on."""

    num_prefill_tokens: int
    prefill_attention: float  # sum over prompt chunks of query tokens times mean keys seen
    num_prefills: int  # prompt chunks
    num_decodes: int
    decode_context: int  # sum of the decodes' context lengths


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one step does. Decode slices come first; sampled rows are numbered in slice order."""

    step_id: int
    slices: tuple[SeqSlice, ...]
    block_copies: tuple[
        tuple[int, int], ...
    ] = ()  # (source, destination) block ids, done before the step (copy-on-write)

    @property
    def num_tokens(self) -> int:
        return sum(s.num_tokens for s in self.slices)

    @property
    def num_decodes(self) -> int:
        return sum(s.is_decode for s in self.slices)

    def work(self) -> BatchWork:
        """Counted slice by slice."""
        num_prefill_tokens = num_prefills = num_decodes = decode_context = 0
        attention = 0.0
        for piece in self.slices:
            start, num_tokens = piece.start, piece.num_tokens
            if piece.is_decode:
                num_decodes += 1
                decode_context += start + 1
            else:
                num_prefills += 1
                num_prefill_tokens += num_tokens
                attention += num_tokens * (start + (num_tokens + 1) / 2)  # the token at position p sees p + 1 keys
        return BatchWork(num_prefill_tokens, attention, num_prefills, num_decodes, decode_context)


@dataclass(slots=True)
class StepResult:
    """What a step produced. Rows are numbered in slice order: ``SeqSlice.num_rows`` for each."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(
        default_factory=dict
    )  # request id -> one entry per target of this step
    device_ms: float | None = None  # time the device worked on the step
