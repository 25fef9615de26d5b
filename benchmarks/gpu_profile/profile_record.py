"""The record of a profile: every point that was measured, beside the fit; how far a second profile lies from the first."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.gpu_profile.measured import Machine
from nanopd.cost_model import HardwareProfile, StepFeatures, original_parameters
from nanopd.cost_model.derive import prefill_intercept_ms
from nanopd.cost_model.original import H20, RTX_4090

_CLOSE = 0.05


def profile_record(machine: Machine, profiles: Sequence[HardwareProfile], note: str = "") -> str:
    """Of the first; a second is compared with it. ``note``: where what comes from."""
    profile = profiles[0]
    lines = [*_head(machine, profile), "", *([note, ""] if note else [])]
    if len(profiles) > 1:
        lines += [f"A second profile in the same process: {_agreement(*profiles[:2])}.", "", *_outside(*profiles[:2])]
    lines += [*_decodes(profile), "", *_prefills(profile), "", *_mixed(profile), "", *_pushes(profile)]
    return "\n".join([*lines, *_parameters(profile)]) + "\n"


def _head(machine: Machine, profile: HardwareProfile) -> list[str]:
    assert profile.measurements is not None
    errors = ", ".join(f"{kind} {error:.1%}" for kind, error in profile.held_out_errors.items())
    lines = [
        f"# `nanopd profile` on {machine.words}, {Path(profile.model).name}, {profile.date}",
        "",
        f"{profile.hardware}, {profile.dtype}, random weights; commit {profile.commit} with its working tree. {profile.source}. "
        "`python -m benchmarks.gpu_profile`.",
        "",
        f"Held-out step time, median error over cases each held out of the fit once: {errors}. Reading memory: "
        f"{profile.measurements.read_bandwidth_gb_s:.0f} GB/s. A step with prompts takes the host {profile.step.terms.launch_ms:.1f} ms to launch.",
    ]
    if profile.step.terms.burst_ms:
        lines += [
            "",
            f"After {profile.step.terms.burst_ms:.0f} ms of prompts in a row such steps take {profile.step.terms.sustained_ratio:.2f} times as long "
            "(from the steps of a trace).",
        ]
    return lines


def _decodes(profile: HardwareProfile) -> list[str]:
    assert profile.measurements is not None
    return [
        "| decode step | context | ms | 10 % | 90 % | fit | bytes / read bandwidth |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.batch} | {p.context} | {p.measured.ms:.2f} | {p.measured.low_ms:.2f} | {p.measured.high_ms:.2f} | {p.fit_ms:.2f} "
            f"| {p.roofline_ms:.2f} |"
            for p in profile.measurements.decode
        ),
    ]


def _prefills(profile: HardwareProfile) -> list[str]:
    assert profile.measurements is not None
    return [
        "| prompts | new tokens each | cached | ms | 10 % | 90 % | fit | tokens/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.num_prompts} | {p.num_new} | {p.num_cached} | {p.measured.ms:.2f} | {p.measured.low_ms:.2f} | {p.measured.high_ms:.2f} "
            f"| {p.fit_ms:.2f} | {p.num_prompts * p.num_new / p.measured.ms * 1e3:.0f} |"
            for p in profile.measurements.prefill
        ),
    ]


def _mixed(profile: HardwareProfile) -> list[str]:
    assert profile.measurements is not None
    return [
        "A prompt chunk beside decodes in one step, and what moving its KV to another worker would take:",
        "",
        "| chunk | decodes | context | decodes alone, ms | both, ms | fit | moving the KV, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.num_tokens} | {p.batch} | {p.context} | {p.decode_ms:.2f} | {p.measured.ms:.2f} | {p.fit_ms:.2f} | {p.transfer_ms:.3f} |"
            for p in profile.measurements.interference
        ),
    ]


def _pushes(profile: HardwareProfile) -> list[str]:
    """Between two processes; nothing where the transfer was given."""
    assert profile.measurements is not None
    if not profile.measurements.transfer:
        return []
    transfer = profile.transfer
    return [
        f"Scattered blocks to the pool of another process: {transfer.latency_ms:.3f} ms + bytes / {transfer.bandwidth_gb_s:.0f} GB/s, a fit to the "
        "fastest push of each size.",
        "",
        "| MiB | ms | 10 % | 90 % | fit | GB/s |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.num_bytes / 2**20:.1f} | {p.measured.ms:.3f} | {p.measured.low_ms:.3f} | {p.measured.high_ms:.3f} | {p.fit_ms:.3f} "
            f"| {p.num_bytes / p.measured.ms / 1e6:.1f} |"
            for p in profile.measurements.transfer
        ),
        "",
    ]


def _parameters(profile: HardwareProfile) -> list[str]:
    """The original's five, beside its own columns."""
    columns = (original_parameters(profile), RTX_4090, H20)
    rows = {
        "alpha, ms per prompt token": [f"{p.alpha_ms:.5f}" for p in columns],
        "its intercept, ms": [f"{prefill_intercept_ms(profile):.2f}", "-", "-"],
        "beta, ms per decode step": [f"{p.beta_ms:.3f}" for p in columns],
        "batch_thresh": [str(p.batch_thresh) for p in columns],
        "gamma, ms per prefilled token": [f"{p.gamma_ms:.5f}" for p in columns],
        "bandwidth, GB/s": [f"{p.bandwidth_gb_s:.1f}" for p in columns],
        "crossover load": [f"{p.crossover_load:.2f}" for p in columns],
    }
    head = [f"| the original's parameters | {profile.hardware} | RTX 4090 x8 | H20 |", "| --- | --- | --- | --- |"]
    return head + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def _pairs(first: HardwareProfile, second: HardwareProfile) -> list[tuple[StepFeatures, float, float]]:
    """The two medians of each case."""
    again = {sample.features: sample.ms for sample in second.samples}
    return [(sample.features, sample.ms, again[sample.features]) for sample in first.samples]


def _agreement(first: HardwareProfile, second: HardwareProfile) -> str:
    """How far they lie apart, by kind of step."""
    parts = []
    for kind in ("decode", "prefill", "mixed"):
        apart = [abs(b / a - 1.0) for features, a, b in _pairs(first, second) if features.kind == kind]
        close = sum(a <= _CLOSE for a in apart)
        parts.append(
            f"{kind} steps {median(apart):.1%} apart in the median, {close} of {len(apart)} within {_CLOSE:.0%}"
        )
    return "; ".join(parts)


def _outside(first: HardwareProfile, second: HardwareProfile) -> list[str]:
    """The cases that do not agree, if any."""
    rows = [(f, a, b) for f, a, b in _pairs(first, second) if abs(b / a - 1.0) > _CLOSE]
    if not rows:
        return []
    cells = "; ".join(
        f"{f.num_prefill_tokens} tokens of {f.num_prefills} prompts beside {f.num_decodes} decodes {a:.2f} and {b:.2f} ms"
        for f, a, b in rows
    )
    return [f"Further apart: {cells}.", ""]
