"""What a step's time depends on."""

import msgspec

from nanopd.batch import Batch
from nanopd.messages import StepTiming


class StepFeatures(msgspec.Struct, frozen=True, gc=False):
    """One step's work: the fields of ``BatchWork``, in its order."""

    num_prefill_tokens: int = 0
    prefill_attention: float = 0.0  # sum over prompt chunks of query tokens times mean keys seen
    num_prefills: int = 0  # prompt chunks
    num_decodes: int = 0
    decode_context: int = 0  # sum of the decodes' context lengths

    @property
    def num_tokens(self) -> int:
        return self.num_prefill_tokens + self.num_decodes

    @property
    def kind(self) -> str:
        """``decode``, ``prefill`` or ``mixed``."""
        if self.num_prefill_tokens == 0:
            return "decode"
        return "mixed" if self.num_decodes else "prefill"

    @classmethod
    def of_batch(cls, batch: Batch) -> "StepFeatures":
        """Of a step as the scheduler stated it."""
        return cls(*batch.work())

    @classmethod
    def of_timing(cls, timing: StepTiming) -> "StepFeatures":
        """Of a step a worker reported."""
        return cls(
            timing.num_prefill_tokens,
            timing.prefill_attention,
            timing.num_prefills,
            timing.num_decodes,
            timing.decode_context,
        )

    @classmethod
    def of_decode(cls, batch: int, context_len: float) -> "StepFeatures":
        """Of ``batch`` decodes with ``context_len`` keys each."""
        return cls(0, 0.0, 0, batch, round(batch * context_len))

    @classmethod
    def of_prefill(cls, num_tokens: int, num_cached: int = 0, num_prompts: int = 1) -> "StepFeatures":
        """Of ``num_prompts`` chunks of ``num_tokens`` new tokens, each behind ``num_cached`` computed ones."""
        attention = num_prompts * num_tokens * (num_cached + (num_tokens + 1) / 2)
        return cls(num_prompts * num_tokens, attention, num_prompts)

    def __add__(self, other: "StepFeatures") -> "StepFeatures":
        """Both pieces of work in one step."""
        return StepFeatures(
            self.num_prefill_tokens + other.num_prefill_tokens,
            self.prefill_attention + other.prefill_attention,
            self.num_prefills + other.num_prefills,
            self.num_decodes + other.num_decodes,
            self.decode_context + other.decode_context,
        )


class StepSample(msgspec.Struct, frozen=True):
    """A measured step."""

    features: StepFeatures
    ms: float
