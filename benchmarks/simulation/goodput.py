"""Goodput of every policy over workloads, objectives and loads, in simulation: ``python -m benchmarks.simulation.goodput``.

Each cell plays one pre-generated trace to every arm, with the same number of workers and seeds other than those the router was tuned on. Loads are
shares of ``nanopd.simulator.capacity``. Writes NAME.json; ``goodput_report.py`` makes the record of one or several of them.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

from benchmarks.simulation.cells import ABLATIONS, CELLS, Cell, arms, router_of
from nanopd.cost_model import HardwareProfile, bundled
from nanopd.simulator import SimulationResult, simulate
from nanopd.workload import RequestSpec

SEEDS = "101,102"  # the router was tuned on 1 to 9
NUM_BLOCKS = 20  # stretches of a trace that count as independent when intervals are drawn


def run_arm(profile: HardwareProfile, policy: str, workers: str, specs: list[RequestSpec], duration_s: float) -> dict:
    began = time.process_time()
    result = simulate(profile, workers, policy, specs, router=router_of(policy, profile))
    spent = time.process_time() - began
    return {
        "attainment": round(result.attainment(), 4),
        "kept": blocks(result, duration_s, only_kept=True),
        "by_tenant": by_tenant(result),
        "late": [late(result, "ttft_ms"), late(result, "tpot_ms")],  # share that missed this objective
        "paths": result.paths(),
        "requests_per_cpu_minute": round(len(specs) / spent * 60),
    }


def blocks(result: SimulationResult, duration_s: float, *, only_kept: bool) -> list[int]:
    """Requests that came in each stretch of the trace."""
    counts = [0] * NUM_BLOCKS
    for record in result.records:
        counts[min(NUM_BLOCKS - 1, int(record.arrival_s / duration_s * NUM_BLOCKS))] += not only_kept or record.meets()
    return counts


def by_tenant(result: SimulationResult) -> dict[str, float]:
    kept: dict[str, list[bool]] = {}
    for record in result.records:
        kept.setdefault(record.tenant, []).append(record.meets())
    return {tenant: round(sum(values) / len(values), 4) for tenant, values in sorted(kept.items())}


def late(result: SimulationResult, name: str) -> float:
    missed = sum(
        (value := getattr(record, name)) is not None and value > (getattr(record.slo, name) or 1e12)
        for record in result.records
    )
    return round(missed / len(result.records), 4)


def run_cell(
    profile: HardwareProfile,
    cell: Cell,
    num_workers: int,
    load: float,
    count: int,
    seed: int,
    only: list[str],
    extra: list[str],
) -> dict:
    rate = load * cell.capacity(profile, num_workers)
    duration_s = count / rate
    specs = cell.trace(rate, duration_s, seed)
    rows = {}
    for policy, workers in arms(num_workers, extra):
        if not only or policy in only:
            rows[f"{policy} {workers}"] = run_arm(profile, policy, workers, specs, duration_s)
    offered = [0] * NUM_BLOCKS
    for spec in specs:
        offered[min(NUM_BLOCKS - 1, int(spec.arrival_s / duration_s * NUM_BLOCKS))] += 1
    return {
        "cell": cell.name,
        "workers": num_workers,
        "load": load,
        "rate": round(rate, 2),
        "seed": seed,
        "duration_s": round(duration_s, 2),
        "count": len(specs),
        "offered": offered,
        "arms": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="h200_qwen3_8b")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--cells", default="0,1,2,3", help="numbers of CELLS")
    parser.add_argument("--loads", default="0.5,0.7,0.9")
    parser.add_argument("--seeds", default=SEEDS)
    parser.add_argument("--requests", type=int, default=1600, help="of a run, about")
    parser.add_argument("--only", default="", help="policies to run; empty: all")
    parser.add_argument("--ablate", action="store_true", help="the oracle and the ablations, too")
    parser.add_argument("--budget-s", type=float, default=1e9, help="start no run after this many seconds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default=f"simulated-goodput_{time.strftime('%Y-%m-%d')}")
    args = parser.parse_args()
    profile, runs, began = bundled(args.profile), [], time.monotonic()
    jobs = [
        (CELLS[int(cell)], float(load), int(seed))
        for seed in args.seeds.split(",")
        for load in args.loads.split(",")
        for cell in args.cells.split(",")
    ]
    only = [name for name in args.only.split(",") if name]
    for number, (cell, load, seed) in enumerate(jobs, 1):
        if time.monotonic() - began > args.budget_s:
            print(f"the time is over after {number - 1} of {len(jobs)} runs")
            break
        extra = ["oracle", *ABLATIONS]
        if not args.ablate:
            extra = [name for name in extra if name in only]
        run = run_cell(profile, cell, args.workers, load, args.requests, seed, only, extra)
        runs.append(run)
        best = sorted(((row["attainment"], arm) for arm, row in run["arms"].items()), reverse=True)
        shown = ", ".join(f"{arm} {value:.1%}" for value, arm in best)
        print(f"{number}/{len(jobs)} {args.workers} {cell.name} {load} ({run['count']}): {shown}", flush=True)
        write(args, profile, runs)


def write(args: argparse.Namespace, profile: HardwareProfile, runs: list[dict]) -> None:
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    about = {"commit": commit, "profile": args.profile, "hardware": profile.hardware, "model": profile.model}
    command = f"--workers {args.workers} --cells {args.cells} --loads {args.loads} --seeds {args.seeds} --requests {args.requests}"
    about["command"] = (
        f"python -m benchmarks.simulation.goodput {command}"
        + (" --ablate" if args.ablate else "")
        + (f' --only "{args.only}"' if args.only else "")
    )
    (args.out / f"{args.name}.json").write_text(json.dumps({**about, "runs": runs}) + "\n")


if __name__ == "__main__":
    main()
