"""Profiles one H200 with Qwen3-8B (random weights), and serves traces on the same runner for the fidelity record.

    python -m benchmarks.h200_profile --out DIR      (on the machine with the GPU: profiles, raw times, what was served)
    python -m benchmarks.h200_profile --take DIR     (anywhere: the bundled profile, and the records in benchmarks/results)

The bundled profile ``h200_qwen3_8b_measured`` keeps the transfer between two GPUs from an earlier measurement (copy engine over NVLink): one
GPU cannot show it.
"""

import argparse
import pickle
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from zlib import crc32

import msgspec
from msgspec import structs

from benchmarks.fidelity.rows import LIMITS, Row, compare, table
from benchmarks.fidelity.simulated import simulated_rows
from benchmarks.fidelity.steps import describe_errors, step_errors
from benchmarks.fidelity.trace import describe, make_trace
from nanopd.cost_model import (
    HardwareProfile,
    StepFeatures,
    StepModel,
    StepSample,
    TransferModel,
    fit_step_model,
    original_parameters,
)
from nanopd.cost_model.derive import prefill_intercept_ms
from nanopd.cost_model.measurements import Measurements
from nanopd.cost_model.original import H20, RTX_4090
from nanopd.metrics.summary import percentile
from nanopd.workload import RequestSpec

MODEL = Path(__file__).parent / "models" / "qwen3-8b"
BUNDLED = Path(__file__).parents[1] / "nanopd" / "cost_model" / "profiles" / "h200_qwen3_8b_measured.json"
RESULTS = Path(__file__).parent / "results"
# P2P over NVLink between two H200s, copy engine, contiguous: 16 MiB at 279 GB/s, 1 GiB at 395 GB/s; latency and asymptote from these two.
NVLINK = TransferModel(latency_ms=0.018, bandwidth_gb_s=397.0)
PROFILES = ("first", "second")
HOST_BOUND_TOKENS, FIT_TRACE = 300, "mixed-slo"  # see ``completed``
LINEAR_MS = {16: 4.40, 64: 4.57, 128: 5.03, 256: 6.5}  # all linear layers of a step with its norms (linear record)
REST_MS = 0.15  # of a step beside those and attention
TRACES = {
    "sharegpt": ("sharegpt", 12.0, 120, 21, 4096, 4, 256),
    "mixed-slo": ("mixed-slo", 4.0, 60, 22, 16_384, 4, 256),
}
WARM_UP = ("sharegpt", 50.0, 24, 1, 2048, 4, 16)
MAX_NUM_SEQS = 256


class ServedTrace(msgspec.Struct):
    """What the engine did with a trace."""

    name: str
    rows: list[Row]
    steps: list[tuple[StepFeatures, float]]
    trace: tuple[str, float, int, int, int, int, int]  # see make_trace

    def shortened(self) -> "ServedTrace":
        """Every tenth decode step is enough for the file."""
        kept = [s for i, s in enumerate(self.steps) if s[0].num_prefill_tokens or i % 10 == 0]
        return structs.replace(self, steps=[(features, round(ms, 3)) for features, ms in kept])


def measure(out: Path, budget_s: float, repeats: int, min_rounds: int, names: Sequence[str]) -> None:
    """On the GPU."""
    from benchmarks.fidelity.engine import serve
    from nanopd.config import EngineConfig, SchedulerConfig
    from nanopd.profiler import load_runner, measured_config, profile_runner

    config = measured_config(
        EngineConfig(model=str(MODEL), load_format="dummy", device="cuda", dtype="bfloat16", max_model_len=40_960)
    )
    began = time.perf_counter()
    runner = load_runner(config)
    print(f"loaded in {time.perf_counter() - began:.1f} s", flush=True)
    as_worker = replace(config, scheduler=SchedulerConfig(max_num_seqs=MAX_NUM_SEQS))  # a worker's steps of 2048 tokens
    serve(runner, as_worker, make_trace(*WARM_UP))
    served = []
    for name in names:
        result = serve(runner, as_worker, make_trace(*TRACES[name]))
        served.append(ServedTrace(name, result.rows, result.steps, TRACES[name]))
        (out / "served.json").write_bytes(msgspec.json.encode(served))
        print(f"{name}: {len(result.steps)} steps, {time.perf_counter() - began:.1f} s", flush=True)
    for number, name in enumerate(PROFILES[:repeats]):
        raw = out / f"{name}.pickle"
        measured = profile_runner(
            runner,
            config,
            budget_s=budget_s,
            seed=number,
            commit=commit(),
            transfer=NVLINK,
            min_rounds=min_rounds,
            on_round=lambda times, raw=raw: raw.write_bytes(pickle.dumps(times)),  # type: ignore[misc]
        )
        measured.profile.save(out / f"{name}.json")
        print(
            f"{name}: {measured.num_rounds} rounds, {measured.seconds:.1f} s, spread {measured.spread:.3f}", flush=True
        )
        print(measured.profile.held_out_errors, measured.profile.step.terms.launch_ms, flush=True)


def take(folder: Path, bundle: Path) -> None:
    """The bundled profile and the records from what was measured."""
    profiles = [HardwareProfile.load(path) for name in PROFILES if (path := folder / f"{name}.json").exists()]
    served = msgspec.json.decode((folder / "served.json").read_bytes(), type=list[ServedTrace])
    profile = profiles[0]
    if profile.step.terms.launch_ms == 0.0:
        profile = completed(profiles, served)
    profile = structs.replace(profile, model="qwen3-8b")
    profile.save(bundle)
    names = [f"{what}_1xh200_{profile.date}" for what in ("profile_qwen3-8b", "fidelity_1c")]
    (RESULTS / f"{names[0]}.md").write_text(profile_record(profile, profiles))
    (RESULTS / f"{names[1]}.md").write_text(fidelity_record(profile, served))
    (RESULTS / f"{names[1]}.json").write_bytes(msgspec.json.encode([trace.shortened() for trace in served]) + b"\n")


def completed(profiles: Sequence[HardwareProfile], served: Sequence[ServedTrace]) -> HardwareProfile:
    """A profile of the first version of the profiler, which did not give the host a head start and measured no prompts between 1024 and 2048 tokens:

    - its steps of up to 300 tokens with a prompt took what the host needs to launch them: their median is ``launch_ms``,
    - what such a step takes of the device is put together from the linear record,
    - steps of more than 1024 tokens are also taken from a served trace, where one followed another, so that the host was ahead.
    """
    every = [sample for profile in profiles for sample in profile.samples]
    bound = [s.ms for s in every if s.features.num_prefill_tokens and s.features.num_tokens <= HOST_BOUND_TOKENS]
    samples = [s for s in every if not s.features.num_prefill_tokens or s.features.num_tokens > HOST_BOUND_TOKENS]
    samples += [StepSample(StepFeatures.of_prefill(size), ms + REST_MS) for size, ms in LINEAR_MS.items()]
    steps = next(trace.steps for trace in served if trace.name == FIT_TRACE)
    samples += [
        StepSample(features, ms)
        for (before, _), (features, ms) in pairwise(steps)
        if before.num_prefill_tokens and features.num_tokens > 1024
    ]
    model = fit_step_model(samples, profiles[0].step.terms.ladder)
    step = StepModel(structs.replace(model.terms, launch_ms=median(bound)))
    points = profiles[0].measurements
    assert points is not None
    return structs.replace(
        profiles[0],
        step=step,
        samples=tuple(samples),
        held_out_errors=held_out(samples, profiles[0].step.terms.ladder),
        measurements=refitted(points, step),
        source=f"{profiles[0].source}; two profiles in one process; device time of prompts up to 256 tokens from the linear record; steps above "
        f"1024 tokens also from the served trace {FIT_TRACE}; transfer between two GPUs: NVLink copy engine, measured earlier",
    )


def held_out(samples: Sequence[StepSample], ladder: tuple[int, ...], num_folds: int = 5) -> dict[str, float]:
    """Median relative errors on samples that the fit has not seen, a fifth at a time; samples of equal features stay together."""
    kinds = sorted({sample.features for sample in samples}, key=lambda f: crc32(repr(f).encode()))
    fold_of = {features: index % num_folds for index, features in enumerate(kinds)}
    errors: dict[str, list[float]] = {"all": []}
    for fold in range(num_folds):
        model = fit_step_model([s for s in samples if fold_of[s.features] != fold], ladder, num_folds=1)
        for sample in samples:
            if fold_of[sample.features] == fold:
                error = abs(model.device_ms(sample.features) / sample.ms - 1.0)
                errors["all"].append(error)
                errors.setdefault(sample.features.kind, []).append(error)
    return {kind: round(median(values), 4) for kind, values in errors.items()}


def refitted(points: Measurements, step: StepModel) -> Measurements:
    """The same measurements beside another fit."""
    return structs.replace(
        points,
        decode=tuple(
            structs.replace(p, fit_ms=step.predict_ms(StepFeatures.of_decode(p.batch, p.context)))
            for p in points.decode
        ),
        prefill=tuple(
            structs.replace(p, fit_ms=step.predict_ms(StepFeatures.of_prefill(p.num_new, p.num_cached, p.num_prompts)))
            for p in points.prefill
        ),
        interference=tuple(
            structs.replace(
                p,
                fit_ms=step.predict_ms(
                    StepFeatures.of_prefill(p.num_tokens) + StepFeatures.of_decode(p.batch, p.context)
                ),
            )
            for p in points.interference
        ),
    )


def profile_record(profile: HardwareProfile, profiles: Sequence[HardwareProfile]) -> str:
    points = profile.measurements
    assert points is not None
    errors = ", ".join(f"{kind} {error:.1%}" for kind, error in profile.held_out_errors.items())
    lines = [
        f"# `nanopd profile` on one H200, Qwen3-8B, {profile.date}",
        "",
        f"{profile.hardware}, {profile.dtype}, random weights; commit {profile.commit} with its working tree. {profile.source}. "
        "`python -m benchmarks.h200_profile`. The result is the bundled profile `h200_qwen3_8b_measured`.",
        "",
        f"Held-out step time, median error over cases each held out of the fit once: {errors}. Reading memory: "
        f"{points.read_bandwidth_gb_s:.0f} GB/s. A step without a graph takes the host {profile.step.terms.launch_ms:.1f} ms to launch: shorter ones "
        "take that long unless the step before hides it.",
        "",
    ]
    if len(profiles) > 1:
        lines += [f"A second profile in the same process: {agreement(*profiles)}.", ""]
    lines += [
        "| decode step | context | ms | 10 % | 90 % | fit | bytes / read bandwidth |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.batch} | {p.context} | {p.measured.ms:.2f} | {p.measured.low_ms:.2f} | {p.measured.high_ms:.2f} | {p.fit_ms:.2f} "
            f"| {p.roofline_ms:.2f} |"
            for p in points.decode
        ),
        "",
        "| prompts | new tokens each | cached | ms | 10 % | 90 % | fit | tokens/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.num_prompts} | {p.num_new} | {p.num_cached} | {p.measured.ms:.2f} | {p.measured.low_ms:.2f} | {p.measured.high_ms:.2f} "
            f"| {p.fit_ms:.2f} | {p.num_prompts * p.num_new / p.measured.ms * 1e3:.0f} |"
            for p in points.prefill
        ),
        "",
        "A prompt chunk beside decodes of context 1024, and what moving its KV between two GPUs would take:",
        "",
        "| chunk | decodes | decodes alone, ms | both, ms | fit | moving the KV, ms |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {p.num_tokens} | {p.batch} | {p.decode_ms:.2f} | {p.measured.ms:.2f} | {p.fit_ms:.2f} | {p.transfer_ms:.3f} |"
            for p in points.interference
        ),
        "",
        *parameters(profile),
    ]
    return "\n".join(lines) + "\n"


def agreement(first: HardwareProfile, second: HardwareProfile) -> str:
    """How far the two medians of each case lie apart, by kind of step."""
    again = {sample.features: sample.ms for sample in second.samples}
    parts = []
    for kind in ("decode", "prefill", "mixed"):
        apart = [
            abs(again[sample.features] / sample.ms - 1.0) for sample in first.samples if sample.features.kind == kind
        ]
        parts.append(
            f"{kind} steps {median(apart):.1%} apart in the median, {sum(a <= 0.05 for a in apart)} of {len(apart)} within 5 %"
        )
    return "; ".join(parts)


def parameters(profile: HardwareProfile) -> list[str]:
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


def fidelity_record(profile: HardwareProfile, served: Sequence[ServedTrace]) -> str:
    lines = [
        f"# Simulator against the real engine: 1C, one H200, Qwen3-8B, {profile.date}",
        "",
        f"Random weights, {profile.dtype}; one process, pipeline depth 2, wall time; profile measured in the same process. Commit "
        f"{profile.commit} with its working tree. `python -m benchmarks.h200_profile`. Limits: p50 within {LIMITS['p50_error']:.0%}, p90 within "
        f"{LIMITS['p90_error']:.0%}. Errors are the simulation's, relative to the engine.",
        "",
    ]
    for trace in served:
        specs = make_trace(*trace.trace)
        comparison = compare(trace.rows, simulated_rows(profile, "1C", "collocated", specs, max_num_seqs=MAX_NUM_SEQS))
        within = "within" if all(row["within_limits"] for row in comparison.values()) else "not within"
        lines += [
            f"**{trace.name}**, Poisson {trace.trace[1]}/s: {describe(specs)}; {within} the limits.",
            "",
            *table(comparison),
            "",
            f"Median error of a step's time as the engine reports it (median excess): {describe_errors(step_errors(profile, trace.steps))}.",
            "",
        ]
        if (pairs := host_bound_pairs(trace)) and len(pairs) >= 10:
            low, middle, high = (percentile(pairs, q) for q in (10, 50, 90))
            lines += [
                f"A step of up to {HOST_BOUND_TOKENS} tokens with a prompt, and the decode step before it, which hides a part of its launch, took "
                f"{middle:.1f} ms together ({low:.1f} to {high:.1f} from the 10th to the 90th percentile of {len(pairs)} pairs); the profile's "
                f"launch takes {profile.step.terms.launch_ms:.1f} ms. With {middle:.1f} ms instead, to show what that explains:",
                "",
                *table(compare(trace.rows, simulated(with_launch(profile, middle), specs))),
                "",
            ]
        if FIT_TRACE in profile.source and trace.name == FIT_TRACE:
            lines += ["Steps of this trace above 1024 tokens are among those the profile was fitted to.", ""]
    return "\n".join(lines)


def simulated(profile: HardwareProfile, specs: Sequence[RequestSpec]) -> list[Row]:
    return simulated_rows(profile, "1C", "collocated", specs, max_num_seqs=MAX_NUM_SEQS)


def with_launch(profile: HardwareProfile, launch_ms: float) -> HardwareProfile:
    step = StepModel(structs.replace(profile.step.terms, launch_ms=launch_ms))
    return structs.replace(profile, step=step)


def host_bound_pairs(trace: ServedTrace) -> list[float]:
    """Milliseconds of a decode step and the short step with a prompt after it: the engine sees the launch of the second in the first."""
    return [
        before_ms + ms
        for (before, before_ms), (features, ms) in pairwise(trace.steps)
        if not before.num_prefill_tokens and features.num_prefill_tokens and features.num_tokens <= HOST_BOUND_TOKENS
    ]


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure here, and where to")
    parser.add_argument("--take", type=Path, help="make the profile and its records from what was measured")
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="where --take writes the profile (%(default)s)")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds for the steps of one profile (%(default)s)")
    parser.add_argument("--min-rounds", type=int, default=3, help="over all kinds of steps (%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, choices=(1, 2), help="profiles in a row (%(default)s)")
    parser.add_argument("--traces", default=",".join(TRACES), help="to serve (%(default)s)")
    args = parser.parse_args()
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        names = [name for name in args.traces.split(",") if name]
        measure(args.out, args.budget, args.repeats, args.min_rounds, names)
    if args.take is not None:
        take(args.take, args.bundle)


if __name__ == "__main__":
    main()
