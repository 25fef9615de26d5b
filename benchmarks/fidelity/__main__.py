"""The simulator against the real engine on the same trace.

    python -m benchmarks.fidelity --workers 1C --in-process         one worker's engine in this process (a CPU thread: in its own CPU time)
    python -m benchmarks.fidelity --workers 1P+1D --out benchmarks/results/NAME        worker processes, wall time: for a quiet machine

The profile is measured just before (in process: between the steps of the run), unless one is given. Writes NAME.json (with every request of
both sides) and NAME.md.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.fidelity.cluster import serve_cluster
from benchmarks.fidelity.profiles import load_average, profile_now, sharing_now
from benchmarks.fidelity.rows import LIMITS, Row, compare, table
from benchmarks.fidelity.simulated import simulated_rows
from benchmarks.fidelity.steps import by_profile, describe_errors, foreseen, step_errors
from benchmarks.fidelity.trace import describe, make_trace
from nanopd.config import ClusterConfig, EngineConfig
from nanopd.config.options import build_configs
from nanopd.cost_model import HardwareProfile, StepFeatures
from nanopd.simulator.device import DeviceSharing
from nanopd.workload import RequestSpec

_CPU_BLOCKS = 768

# Rows, the clock's name, the steps where they can be seen.
Run = tuple[list[Row], str, list[tuple[StepFeatures, float]]]


def main() -> None:
    args = _arguments()
    options = _engine_options(args)
    strategy = "disaggregated" if "P" in args.workers else "collocated"
    config, cluster = build_configs(
        {**options, "workers": args.workers, "strategy": strategy, "trace_dir": args.trace_dir}
    )
    specs = make_trace(args.workload, args.rate, args.requests, args.seed, args.max_prompt, 4, args.max_output)
    at_start, sharing = load_average(), None
    if args.in_process:
        profile, runs = _run_in_process(config, specs, args.profile)
    else:
        profile, sharing = _profile(args, options, cluster.topology.num_workers)
        runs = [(rows, "wall", []) for rows in asyncio.run(_serve_anew(config, cluster, specs, args.repeats))]
    simulated = simulated_rows(
        profile, args.workers, strategy, specs, max_num_seqs=config.scheduler.max_num_seqs, sharing=sharing
    )
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "command": "python -m benchmarks.fidelity " + " ".join(sys.argv[1:]),
        "hardware": profile.hardware,
        "model": profile.model,
        "workers": args.workers,
        "num_workers": cluster.topology.num_workers,
        "workload": f"{args.workload}, Poisson {args.rate}/s: {describe(specs)}",
        "load_average": [at_start, load_average()],
        "clock": runs[0][1],
        "sharing": asdict(sharing) if sharing is not None else None,
        "runs": [
            {
                "comparison": compare(rows, simulated),
                "steps": step_errors(by_profile(profile.step, steps), steps),
                "foreseen_steps": step_errors(foreseen(profile.step, steps), steps),
            }
            for rows, _, steps in runs
        ],
        "real": [[asdict(row) for row in rows] for rows, _, _ in runs],
        "simulated": [asdict(row) for row in simulated],
    }
    text = markdown(record)
    print(text)
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(record) + "\n")
        args.out.with_suffix(".md").write_text(text)


def _engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Of the workers and of ``nanopd profile``; what is None has their default."""
    options = {
        "model": args.model,
        "device": args.device,
        "load_format": args.load_format,
        "max_model_len": args.max_model_len,
        "num_blocks": args.num_blocks or (_CPU_BLOCKS if args.device == "cpu" else None),
        "num_threads": args.num_threads if args.device == "cpu" else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _profile(
    args: argparse.Namespace, options: dict[str, Any], num_workers: int
) -> tuple[HardwareProfile, DeviceSharing | None]:
    """Of this machine as it is now (or the given one), and what its workers take of each other."""
    if args.profile is not None:
        return HardwareProfile.load(args.profile), None
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    print("profile of one worker", flush=True)
    alone = profile_now(words, 1, args.budget)
    if num_workers == 1:
        return alone, None
    print(f"profile beside {num_workers - 1} others", flush=True)
    return alone, sharing_now(words, num_workers, alone)


async def _serve_anew(
    config: EngineConfig, cluster: ClusterConfig, specs: Sequence[RequestSpec], repeats: int
) -> list[list[Row]]:
    """The trace again and again, each time with workers that have not seen its prompts yet."""
    runs = []
    for number in range(repeats):
        print(f"run {number + 1} of {repeats}: {describe(specs)}", flush=True)
        runs += [rows async for rows in serve_cluster(config, cluster, [specs])]
    return runs


def _run_in_process(
    config: EngineConfig, specs: Sequence[RequestSpec], profile_path: Path | None
) -> tuple[HardwareProfile, list[Run]]:
    """One worker's engine here. Without a profile, one is measured between its steps."""
    from benchmarks.fidelity.engine import serve
    from benchmarks.fidelity.interleaved import InterleavedProfile
    from nanopd.model_runner import ModelRunner

    runner = ModelRunner.load(config)
    runner.kv_cache.pool.fill_(0.01)  # untouched memory would all be one page of zeros
    if profile_path is not None:
        served, profile = serve(runner, config, specs), HardwareProfile.load(profile_path)
    else:
        between = InterleavedProfile(runner, config)
        served = serve(runner, config, specs, between)
        profile = between.finish(3)
    return profile, [(served.rows, served.clock, served.steps)]


def markdown(record: dict[str, Any]) -> str:
    lines = [
        f"# Simulator against the real engine: {record['workers']}, {record['hardware']}, {record['date']}",
        "",
        f"{record['model']}; commit {record['commit']} with its working tree; load average {record['load_average'][0]} at the start, "
        f"{record['load_average'][1]} at the end; clock: {record['clock']}. `{record['command']}`",
        "",
        f"{record['workload']}. Every answer has the length its trace says. Limits: p50 within {LIMITS['p50_error']:.0%}, p90 within "
        f"{LIMITS['p90_error']:.0%}. Errors are the simulation's, relative to the engine.",
        "",
    ]
    if (sharing := record["sharing"]) is not None:
        parts = [f"{kind} steps {record['num_workers'] / kept:.2f} times as long" for kind, kept in sharing.items()]
        lines += [
            f"The profile is of one worker at work; with all of them {' and '.join(parts)}, measured apart from the trace and told to the simulator.",
            "",
        ]
    for number, run in enumerate(record["runs"], 1):
        within = all(row["within_limits"] for row in run["comparison"].values())
        lines += [
            f"Run {number}: {'within' if within else 'not within'} the limits.",
            "",
            *table(run["comparison"]),
            "",
        ]
        if run["steps"]:
            lines += [
                f"Median error of a step's time by the profile (median excess): {describe_errors(run['steps'])}. By the profile and the steps "
                f"before, told by heartbeats as to the router: {describe_errors(run['foreseen_steps'])}.",
                "",
            ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1C", help="as 1C or 1P+1D (%(default)s)")
    parser.add_argument("--in-process", action="store_true", help="one worker's engine in this process")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-threads", type=int, default=1, help="of a CPU worker (%(default)s)")
    parser.add_argument("--load-format", help="dummy: random weights")
    parser.add_argument("--max-model-len", type=int, default=2048, help="(%(default)s)")
    parser.add_argument("--num-blocks", type=int, help="of a worker's KV pool (as many as fit)")
    parser.add_argument("--trace-dir", help="where the workers leave their logs (nanopd.tracing)")
    parser.add_argument("--profile", type=Path, help="instead of measuring one now")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for the profile's steps (%(default)s)")
    parser.add_argument("--workload", default="sharegpt")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--rate", type=float, default=0.3, help="requests per second (%(default)s)")
    parser.add_argument("--max-prompt", type=int, default=512)
    parser.add_argument("--max-output", type=int, default=48)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="real runs against the one simulation")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
