"""The original's five parameters, read off a profile, so that they can stand beside its published columns."""

from math import log

from nanopd.cost_model.features import StepFeatures
from nanopd.cost_model.original import OriginalParameters
from nanopd.cost_model.profile import HardwareProfile
from nanopd.cost_model.step_model import StepModel

_PROMPTS = (512, 2048)  # prompt lengths between which alpha is the slope: shorter ones are bound by launches or bytes
_CONTEXT = 512  # context of the decodes of beta and batch_thresh
_HARM_BATCH, _HARM_CHUNK = 16, 512  # decodes, and the prompt chunk in their step, of gamma
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def original_parameters(profile: HardwareProfile) -> OriginalParameters:
    """alpha: slope of prefill between two prompt lengths. beta: a decode step at batch 1. batch_thresh: the bend of the original's two-piece curve
    that lies closest to the predicted steps (log error). gamma: what a chunk adds to a decode step, per token of the chunk."""
    step = profile.step
    short, long = _PROMPTS
    slope = (_prefill_ms(step, long) - _prefill_ms(step, short)) / (long - short)
    beta = _decode_ms(step, 1)
    decodes = StepFeatures.of_decode(_HARM_BATCH, _CONTEXT)
    harm = step.predict_ms(decodes + StepFeatures.of_prefill(_HARM_CHUNK)) - step.predict_ms(decodes)
    return OriginalParameters(
        slope,
        beta,
        _batch_thresh(step, beta),
        harm / _HARM_CHUNK,
        profile.transfer.bandwidth_gb_s,
        profile.kv_bytes_per_token,
    )


def prefill_intercept_ms(profile: HardwareProfile) -> float:
    """What the original leaves out: the part of a prefill that does not grow with the prompt."""
    short, long = (_prefill_ms(profile.step, length) for length in _PROMPTS)
    return short - (long - short) / (_PROMPTS[1] - _PROMPTS[0]) * _PROMPTS[0]


def _batch_thresh(step: StepModel, beta: float) -> int:
    def error(thresh: int) -> float:
        return sum(log(beta * max(1.0, batch / thresh) / _decode_ms(step, batch)) ** 2 for batch in _BATCHES)

    return min(_BATCHES, key=error)


def _prefill_ms(step: StepModel, length: int) -> float:
    return step.predict_ms(StepFeatures.of_prefill(length))


def _decode_ms(step: StepModel, batch: int) -> float:
    return step.predict_ms(StepFeatures.of_decode(batch, _CONTEXT))
