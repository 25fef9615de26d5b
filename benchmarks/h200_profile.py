"""Profiles one H200 with Qwen3-8B (random weights), and plays traces to the real engine for the fidelity records.

    python -m benchmarks.h200_profile --out DIR           (on the GPU: traces on one worker, two profiles, what two processes take of one another)
    python -m benchmarks.h200_profile --pair --out DIR    (on the GPU: the traces on 1P+1D, two workers that share it)
    python -m benchmarks.h200_profile --take DIR          (anywhere: the bundled profile, and the records in benchmarks/results)

The bundled profile ``h200_qwen3_8b`` keeps the transfer between two GPUs from an earlier measurement (copy engine over NVLink): one
GPU cannot show it.
"""

import argparse
import asyncio
import pickle
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from benchmarks.fidelity.rows import LIMITS, Row, compare, table
from benchmarks.fidelity.sharing import MeasuredSharing, measure_sharing, neighbour, sharing_of_logs
from benchmarks.fidelity.simulated import simulated_rows
from benchmarks.fidelity.steps import describe_errors, step_errors
from benchmarks.fidelity.trace import describe, make_trace
from nanopd.config import ClusterConfig, EngineConfig, SchedulerConfig, Topology
from nanopd.cost_model import HardwareProfile, StepFeatures, StepModel, TransferModel, original_parameters
from nanopd.cost_model.derive import prefill_intercept_ms
from nanopd.cost_model.original import H20, RTX_4090
from nanopd.request import Strategy
from nanopd.simulator.device import DeviceSharing
from nanopd.tracing.logs import read_logs
from nanopd.workload import RequestSpec

if TYPE_CHECKING:
    from nanopd.model_runner import ModelRunner

Comparison = dict[str, dict[str, Any]]  # see compare

MODEL = Path(__file__).parent / "models" / "qwen3-8b"
BUNDLED = Path(__file__).parents[1] / "nanopd" / "cost_model" / "profiles" / "h200_qwen3_8b.json"
RESULTS = Path(__file__).parent / "results"
# P2P over NVLink between two H200s, copy engine, contiguous: 16 MiB at 279 GB/s, 1 GiB at 395 GB/s; latency and asymptote from these two.
NVLINK = TransferModel(latency_ms=0.018, bandwidth_gb_s=397.0)
PROFILES = ("first", "second")
TRACES = {
    "sharegpt": ("sharegpt", 12.0, 96, 21, 4096, 4, 256),
    "mixed-slo": ("mixed-slo", 4.0, 40, 22, 16_384, 4, 256),
}
FIT_TRACE = {"1C": "mixed-slo", "1P+1D": "sharegpt"}  # whose steps tell the burst and the sharing, see ``take``
# A message between the processes: half of a reservation's round trip, and the way to a prefill worker that waits, in the request log of an
# earlier run of 1P+1D (median of 28 to idle workers, 0.35 to 1.3 ms).
WIRE_MS = 0.8
WARM_UP = ("sharegpt", 50.0, 24, 1, 2048, 4, 16)
ARMS = {"1C": "collocated", "1P+1D": "disaggregated"}
MAX_NUM_SEQS = 256
CONFIG = EngineConfig(
    model=str(MODEL),
    load_format="dummy",
    device="cuda",
    dtype="bfloat16",
    max_model_len=40_960,
    scheduler=SchedulerConfig(max_num_seqs=MAX_NUM_SEQS),
)


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


# ---- on the GPU


def measure(out: Path, min_rounds: int, names: Sequence[str]) -> None:
    """The first profile, the traces, the sharing, the second profile: what matters most comes first."""
    from benchmarks.fidelity.engine import serve
    from nanopd.profiler import load_runner, measured_config

    config, began = measured_config(CONFIG), time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {what}", flush=True)

    with neighbour(config) as pipe:
        runner = load_runner(config)
        say("loaded")
        assert pipe.recv() == "rests"
        say("neighbour loaded")
        say(_profile(runner, config, out, PROFILES[0], 0, min_rounds))
        serve(runner, CONFIG, make_trace(*WARM_UP))
        served = []
        for name in names:
            result = serve(runner, CONFIG, make_trace(*TRACES[name]))
            served.append(ServedTrace(name, result.rows, result.steps, TRACES[name]))
            (out / "served.json").write_bytes(msgspec.json.encode(served))
            say(f"{name}: {len(result.steps)} steps")
        sharing = measure_sharing(runner, pipe)
        (out / "sharing.json").write_bytes(msgspec.json.encode(sharing))
        say(sharing.describe())
        say(_profile(runner, config, out, PROFILES[1], 1, min_rounds))


def _profile(runner: "ModelRunner", config: EngineConfig, out: Path, name: str, seed: int, num_rounds: int) -> str:
    """Measures and saves one; what there is to say of it."""
    from nanopd.profiler import profile_runner

    raw = out / f"{name}.pickle"
    measured = profile_runner(
        runner,
        config,
        budget_s=1.0,
        min_rounds=num_rounds,
        seed=seed,
        commit=commit(),
        transfer=NVLINK,
        on_round=lambda times: raw.write_bytes(pickle.dumps(times)),  # type: ignore[arg-type]
    )
    profile = measured.profile
    profile.save(out / f"{name}.json")
    return f"{name}: spread {measured.spread:.3f}, errors {profile.held_out_errors}, launch {profile.step.terms.launch_ms:.2f} ms"


async def measure_pair(out: Path, names: Sequence[str]) -> None:
    from benchmarks.fidelity.cluster import serve_cluster

    cluster = ClusterConfig(Topology(num_prefill=1, num_decode=1), Strategy.DISAGGREGATED)
    config = replace(CONFIG, trace_dir=str(out / "trace"))
    played, left = [], list(names)
    async for rows in serve_cluster(config, cluster, [make_trace(*TRACES[name]) for name in names]):
        name = left.pop(0)
        played.append(ServedTrace(name, rows, [], TRACES[name]))
        (out / "pair.json").write_bytes(msgspec.json.encode(played))
        print(f"{name}: {len(rows)} requests", flush=True)


# ---- anywhere


def take(folder: Path, bundle: Path) -> None:
    """The bundled profile and the records from what was measured.

    Two things are taken from the steps of one of the two traces of each run, so that the other is the test: how long a cool GPU computes prompts at
    full clocks (the profile's steps are too short to heat it), and what the processes keep of the GPU (measured with other steps beside it, too).
    """
    profiles = [HardwareProfile.load(path) for name in PROFILES if (path := folder / f"{name}.json").exists()]
    sharing = msgspec.json.decode((folder / "sharing.json").read_bytes(), type=MeasuredSharing)
    runs = {
        workers: msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=list[ServedTrace])
        for workers, name in {"1C": "served", "1P+1D": "pair"}.items()
    }
    steps = next(trace.steps for trace in runs["1C"] if trace.name == FIT_TRACE["1C"])
    profile = structs.replace(profiles[0], model=MODEL.name, step=with_burst(profiles[0].step, steps))
    profile.save(bundle)
    logs, _ = read_logs(folder / "trace")
    shared = sharing_of_logs(logs, profile.step, f"trace-{list(TRACES).index(FIT_TRACE['1P+1D'])}-")
    (RESULTS / f"profile_qwen3-8b_1xh200_{profile.date}.md").write_text(profile_record(profile, profiles))
    for workers, served in runs.items():
        out = RESULTS / f"fidelity_{workers.lower().replace('+', '')}_1xh200_{profile.date}"
        out.with_suffix(".md").write_text(fidelity_record(profile, workers, served, sharing, shared))
        out.with_suffix(".json").write_bytes(msgspec.json.encode([trace.shortened() for trace in served]) + b"\n")


def with_burst(step: StepModel, steps: Sequence[tuple[StepFeatures, float]]) -> StepModel:
    """Finds where steps with prompts begin to take longer in an unbroken row of them, and how much longer."""
    rows, spent_ms = [], 0.0
    for features, ms in steps:
        if not features.num_prefill_tokens:
            spent_ms = 0.0
            continue
        if features.num_prefill_tokens >= 300:  # shorter ones are bound by memory, not by power
            rows.append((spent_ms, ms / step.device_ms(features)))
        spent_ms += ms

    def split(limit_ms: float) -> tuple[list[float], list[float]]:
        return [r for spent, r in rows if spent < limit_ms], [r for spent, r in rows if spent >= limit_ms]

    def error(limit_ms: float) -> float:
        return sum(abs(ratio - median(part)) for part in split(limit_ms) for ratio in part)

    limit_ms = min(range(10, 100, 5), key=error)
    before, after = split(limit_ms)
    ratio = round(median(after) / median(before), 3)
    return StepModel(structs.replace(step.terms, burst_ms=float(limit_ms), sustained_ratio=ratio))


def profile_record(profile: HardwareProfile, profiles: Sequence[HardwareProfile]) -> str:
    points = profile.measurements
    assert points is not None
    errors = ", ".join(f"{kind} {error:.1%}" for kind, error in profile.held_out_errors.items())
    lines = [
        f"# `nanopd profile` on one H200, Qwen3-8B, {profile.date}",
        "",
        f"{profile.hardware}, {profile.dtype}, random weights; commit {profile.commit} with its working tree. {profile.source}; transfer between two "
        "GPUs: NVLink copy engine, measured earlier. `python -m benchmarks.h200_profile`. The result is the bundled `h200_qwen3_8b`.",
        "",
        f"Held-out step time, median error over cases each held out of the fit once: {errors}. Reading memory: "
        f"{points.read_bandwidth_gb_s:.0f} GB/s. A step with prompts takes the host {profile.step.terms.launch_ms:.1f} ms to launch.",
        "",
    ]
    if len(profiles) > 1:
        lines += [f"A second profile in the same process: {agreement(*profiles)}.", "", *outside(*profiles)]
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


def pairs(first: HardwareProfile, second: HardwareProfile) -> list[tuple[StepFeatures, float, float]]:
    """The two medians of each case."""
    again = {sample.features: sample.ms for sample in second.samples}
    return [(sample.features, sample.ms, again[sample.features]) for sample in first.samples]


def agreement(first: HardwareProfile, second: HardwareProfile) -> str:
    """How far they lie apart, by kind of step."""
    parts = []
    for kind in ("decode", "prefill", "mixed"):
        apart = [abs(b / a - 1.0) for features, a, b in pairs(first, second) if features.kind == kind]
        parts.append(
            f"{kind} steps {median(apart):.1%} apart in the median, {sum(a <= 0.05 for a in apart)} of {len(apart)} within 5 %"
        )
    return "; ".join(parts)


def outside(first: HardwareProfile, second: HardwareProfile) -> list[str]:
    """The cases that do not agree, if any."""
    rows = [(f, a, b) for f, a, b in pairs(first, second) if abs(b / a - 1.0) > 0.05]
    if not rows:
        return []
    cells = "; ".join(
        f"{f.num_prefill_tokens} tokens of {f.num_prefills} prompts beside {f.num_decodes} decodes {a:.2f} and {b:.2f} ms"
        for f, a, b in rows
    )
    return [f"Further apart: {cells}.", ""]


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


def fidelity_record(
    profile: HardwareProfile,
    workers: str,
    served: Sequence[ServedTrace],
    sharing: MeasuredSharing,
    shared: DeviceSharing,
) -> str:
    is_pair = workers == "1P+1D"
    how = "two worker processes that share the GPU" if is_pair else "one process"
    lines = [
        f"# Simulator against the real engine: {workers}, one H200, Qwen3-8B, {profile.date}",
        "",
        f"Random weights, {profile.dtype}; {how}, pipeline depth 2, wall time; profile measured on the same machine. Commit {profile.commit} "
        f"with its working tree. `python -m benchmarks.h200_profile`. Limits: p50 within {LIMITS['p50_error']:.0%}, p90 within "
        f"{LIMITS['p90_error']:.0%}. Errors are the simulation's, relative to the engine.",
        "",
    ]
    terms = profile.step.terms
    if is_pair:
        lines += [
            f"The GPU serves its processes by turns. While both have work, a decode step keeps {shared.decode:.2f} and a prefill step "
            f"{shared.prefill:.2f} of its half, by the step logs of {FIT_TRACE[workers]}; told to the simulator. Apart from the traces, with other "
            f"steps: {sharing.describe()} ({sharing.sharing.decode:.2f} and {sharing.sharing.prefill:.2f} of a half). A message takes {WIRE_MS} ms, "
            "by the request log of an earlier run.",
            "",
        ]
    else:
        lines += [
            f"After {terms.burst_ms:.0f} ms of prompts in a row such steps take {terms.sustained_ratio:.2f} times as long: clocks fall under the "
            f"GPU's power limit. That is taken from the steps of {FIT_TRACE[workers]}, and told to the simulator; a second table is without it.",
            "",
        ]
    for trace in served:
        specs = make_trace(*trace.trace)

        def against(model: StepModel, trace: ServedTrace = trace, specs: Sequence[RequestSpec] = specs) -> Comparison:
            rows = simulated_rows(
                structs.replace(profile, step=model),
                workers,
                ARMS[workers],
                specs,
                max_num_seqs=MAX_NUM_SEQS,
                sharing=shared if is_pair else None,
                wire_ms=WIRE_MS if is_pair else 0.0,
            )
            return compare(trace.rows, rows)

        comparison = against(profile.step)
        within = "within" if all(row["within_limits"] for row in comparison.values()) else "not within"
        lines += [
            f"**{trace.name}**, Poisson {trace.trace[1]}/s: {describe(specs)}; {within} the limits.",
            "",
            *table(comparison),
            "",
        ]
        if not is_pair:
            lines += [*table(against(StepModel(structs.replace(terms, burst_ms=0.0)))), ""]
        if trace.steps:
            errors = describe_errors(step_errors(profile, trace.steps))
            lines += [f"Median error of a step's time as the engine reports it (median excess): {errors}.", ""]
    return "\n".join(lines)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure here, and where to")
    parser.add_argument("--pair", action="store_true", help="play the traces to 1P+1D on one GPU")
    parser.add_argument("--take", type=Path, help="make the profile and its records from what was measured")
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="where --take writes the profile (%(default)s)")
    parser.add_argument("--min-rounds", type=int, default=3, help="of a profile over all kinds of steps (%(default)s)")
    parser.add_argument("--traces", default=",".join(TRACES), help="to serve (%(default)s)")
    args = parser.parse_args()
    names = [name for name in args.traces.split(",") if name]
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.pair:
            asyncio.run(measure_pair(args.out, names))
        else:
            measure(args.out, args.min_rounds, names)
    if args.take is not None:
        take(args.take, args.bundle)


if __name__ == "__main__":
    main()
