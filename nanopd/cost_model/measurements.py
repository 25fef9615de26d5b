"""What was measured, beside what the fit says: the points of a profile's figures."""

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """Repetitions of one measurement, milliseconds."""

    ms: float  # median
    low_ms: float  # 10th percentile
    high_ms: float  # 90th


class DecodePoint(msgspec.Struct, frozen=True):
    """A decode step of ``batch`` sequences of ``context`` keys on average."""

    batch: int
    context: int
    measured: Spread
    fit_ms: float
    roofline_ms: float  # the weights' and the contexts' bytes over the read bandwidth


class PrefillPoint(msgspec.Struct, frozen=True):
    """A step of ``num_prompts`` chunks, each of ``num_new`` tokens behind ``num_cached`` computed ones."""

    num_new: int
    num_cached: int
    num_prompts: int
    measured: Spread
    fit_ms: float


class InterferencePoint(msgspec.Struct, frozen=True):
    """What a prompt chunk of ``num_tokens`` does to ``batch`` decodes in the same step, and what moving its KV away would take instead."""

    num_tokens: int
    batch: int
    context: int
    decode_ms: float  # the decodes alone
    measured: Spread  # both in one step
    fit_ms: float
    transfer_ms: float  # of the KV of num_tokens tokens


class TransferPoint(msgspec.Struct, frozen=True):
    """A push of ``num_bytes``."""

    num_bytes: int
    measured: Spread
    fit_ms: float


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """The points, in order of size."""

    read_bandwidth_gb_s: float  # of this device's memory, a large sum
    weight_bytes: int  # that a decode step reads
    decode: tuple[DecodePoint, ...] = ()
    prefill: tuple[PrefillPoint, ...] = ()
    interference: tuple[InterferencePoint, ...] = ()
    transfer: tuple[TransferPoint, ...] = ()
