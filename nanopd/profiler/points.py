"""From the times of every case to the points a profile keeps for its figures."""

from collections.abc import Mapping, Sequence
from statistics import median, quantiles

from nanopd.cost_model import HardwareProfile, StepFeatures
from nanopd.cost_model.measurements import (
    DecodePoint,
    InterferencePoint,
    Measurements,
    PrefillPoint,
    Spread,
    TransferPoint,
)
from nanopd.profiler.grid import Case


def spread(values: Sequence[float]) -> Spread:
    """Median and deciles of repetitions."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    deciles = quantiles(values, n=10, method="inclusive")
    return Spread(median(values), deciles[0], deciles[-1])


def measurements(
    times: Mapping[Case, Sequence[float]],
    pushes: Mapping[int, Sequence[float]],
    profile: HardwareProfile,
    read_bandwidth_gb_s: float,
    weight_bytes: int,
) -> Measurements:
    """``times``: milliseconds by case; ``pushes``: milliseconds by bytes. ``profile`` is fitted to them."""
    predict = profile.step.predict_ms
    decode: list[DecodePoint] = []
    prefill: list[PrefillPoint] = []
    interference: list[InterferencePoint] = []
    for case, values in times.items():
        features, measured = case.features, spread(values)
        fit_ms = predict(features)
        batch = len(case.decodes)
        context = round(features.decode_context / batch) if batch else 0
        if not case.prefills:
            num_bytes = weight_bytes + features.decode_context * profile.kv_bytes_per_token
            decode.append(DecodePoint(batch, context, measured, fit_ms, num_bytes / read_bandwidth_gb_s / 1e6))
        elif not batch:
            num_new, num_cached = case.prefills[0]
            prefill.append(PrefillPoint(num_new, num_cached, len(case.prefills), measured, fit_ms))
        else:
            num_tokens, alone = features.num_prefill_tokens, times.get(Case((), case.decodes))
            decode_ms = median(alone) if alone else predict(StepFeatures(0, 0.0, 0, batch, features.decode_context))
            transfer_ms = profile.transfer.transfer_ms(num_tokens * profile.kv_bytes_per_token)
            interference.append(InterferencePoint(num_tokens, batch, context, decode_ms, measured, fit_ms, transfer_ms))
    return Measurements(
        read_bandwidth_gb_s=read_bandwidth_gb_s,
        weight_bytes=weight_bytes,
        decode=tuple(sorted(decode, key=lambda p: (p.context, p.batch))),
        prefill=tuple(sorted(prefill, key=lambda p: (p.num_cached, p.num_prompts, p.num_new))),
        interference=tuple(sorted(interference, key=lambda p: (p.batch, p.num_tokens))),
        transfer=tuple(
            TransferPoint(num_bytes, spread(values), profile.transfer.transfer_ms(num_bytes))
            for num_bytes, values in sorted(pushes.items())
        ),
    )
