"""The record of the simulator beside the real engine, on one set of workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from benchmarks.fidelity.rows import LIMITS, compare, table
from benchmarks.fidelity.sharing import MeasuredSharing
from benchmarks.fidelity.simulated import simulated_rows
from benchmarks.fidelity.steps import by_profile, describe_errors, foreseen, step_errors
from benchmarks.fidelity.trace import describe, make_trace
from benchmarks.gpu_profile.measured import Machine, Run, ServedTrace
from benchmarks.gpu_profile.setting import FIT_TRACE, LONE, MAX_NUM_SEQS, Drawn, strategy_of
from nanopd.config import Topology
from nanopd.cost_model import HardwareProfile, StepModel
from nanopd.simulator.device import DeviceSharing

Comparison = dict[str, dict[str, Any]]  # see compare


@dataclass(frozen=True, slots=True)
class Told:
    """What the simulator is told beside the profile."""

    wire_ms: float = 0.0
    sharing: DeviceSharing | None = None  # the workers are on one GPU
    apart: MeasuredSharing | None = None  # the same, measured apart from the traces
    note: str = "Profile measured in the same run."  # where what comes from


def fidelity_record(machine: Machine, profile: HardwareProfile, run: Run, traces: dict[str, Drawn], told: Told) -> str:
    used = structs.replace(machine, num_devices=min(machine.num_devices, Topology.parse(run.workers).num_workers))
    lines = [
        f"# Simulator against the real engine: {run.workers}, {used.words}, {Path(profile.model).name}, {profile.date}",
        "",
        f"{profile.hardware}; random weights, {profile.dtype}; {_how(machine, run)}, wall time. {told.note} Commit "
        f"{machine.commit} with its working tree. `python -m benchmarks.gpu_profile`. Limits: p50 within {LIMITS['p50_error']:.0%}, p90 within "
        f"{LIMITS['p90_error']:.0%}. Errors are the simulation's, relative to the engine.",
        "",
        *_told(profile, run, told),
    ]
    for trace in run.served:
        if trace.name != LONE:
            lines += _trace(profile, run, trace, traces[trace.name], told)
    return "\n".join(lines)


def _how(machine: Machine, run: Run) -> str:
    if run.workers == "1C":
        return "one process"
    if machine.num_devices == 1:
        return "worker processes that share the GPU"
    return "worker processes with a GPU each" if machine.num_devices else "worker processes"


def _told(profile: HardwareProfile, run: Run, told: Told) -> list[str]:
    terms, lines = profile.step.terms, []
    if terms.burst_ms and told.sharing is None:
        lines.append(
            f"After {terms.burst_ms:.0f} ms of prompts in a row such steps take {terms.sustained_ratio:.2f} times as long: clocks fall under the "
            f"GPU's power limit. That is taken from the steps of {FIT_TRACE['1C']} on one worker, and told to the simulator"
            + ("; a second table is without it." if run.workers == "1C" else ".")
        )
    if told.sharing is not None:
        lines.append(
            f"The GPU serves its processes by turns. While both have work, a decode step keeps {told.sharing.decode:.2f} and a prefill step "
            f"{told.sharing.prefill:.2f} of its half, by the step logs of {FIT_TRACE['shared']}; told to the simulator."
        )
    if told.apart is not None and told.sharing is not None:
        lines.append(
            f"Apart from the traces, with other steps: {told.apart.describe()} ({told.apart.sharing.decode:.2f} and "
            f"{told.apart.sharing.prefill:.2f} of a half)."
        )
    if (lone := run.trace(LONE)) is not None:
        lines.append(
            f"A message between processes takes {told.wire_ms:.2f} ms, by {len(lone.rows)} requests with the machine to themselves just before; "
            "told to the simulator."
        )
    return [*lines, ""] if lines else []


def _trace(profile: HardwareProfile, run: Run, trace: ServedTrace, drawn: Drawn, told: Told) -> list[str]:
    specs = make_trace(*drawn)

    def against(step: StepModel) -> Comparison:
        rows = simulated_rows(
            structs.replace(profile, step=step),
            run.workers,
            strategy_of(run.workers),
            specs,
            max_num_seqs=MAX_NUM_SEQS,
            sharing=told.sharing,
            wire_ms=told.wire_ms,
        )
        return compare(trace.rows, rows)

    comparison = against(profile.step)
    lines = [
        f"**{trace.name}**, Poisson {drawn[1]}/s: {describe(specs)}; {_verdict(comparison)}.",
        "",
        *table(comparison),
        "",
    ]
    if run.workers == "1C" and profile.step.terms.burst_ms:
        lines += [*table(against(StepModel(structs.replace(profile.step.terms, burst_ms=0.0)))), ""]
    if trace.steps:
        alone, live = (
            describe_errors(step_errors(predict(profile.step, trace.steps), trace.steps))
            for predict in (by_profile, foreseen)
        )
        lines += [
            f"Median error of a step's time as the engine reports it (median excess), by the profile: {alone}. By the profile and the steps before, "
            f"told by heartbeats as to the router: {live}.",
            "",
        ]
    return lines


def _verdict(comparison: Comparison) -> str:
    missed = [
        f"{name.removesuffix('_ms').upper()} p{level} {row[f'p{level}_error']:+.1%}"
        for name, row in comparison.items()
        for level in (50, 90)
        if abs(row[f"p{level}_error"]) > LIMITS[f"p{level}_error"]
    ]
    return f"not within the limits ({', '.join(missed)})" if missed else "within the limits"


def verdicts(texts: Sequence[str]) -> str:
    """Of several records, for the screen."""
    return "\n".join(
        line for text in texts for line in text.splitlines() if line.startswith(("# Sim", "**", "| T", "| E"))
    )
