"""Goodput of every policy over workloads, objectives and loads, in simulation: ``python -m benchmarks.simulation.goodput``.

Each cell plays one pre-generated trace to every arm, with the same number of workers and seeds other than those the router was tuned on. Loads are
shares of ``nanopd.simulator.capacity``. Writes NAME.json arm by arm and goes on from there when started again; ``goodput_report.py`` makes the record
of one or several of them.
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

SEEDS = "106"  # the router was tuned on 1 to 9; 101 to 105 were recorded before and looked at
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
        "commit": commit(),
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


def commit() -> str:
    git = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


class Record:
    """Runs by what was played; NAME.json holds them between and after."""

    def __init__(self, path: Path, about: dict) -> None:
        self._path, self._about = path, about
        self.runs: list[dict] = json.loads(path.read_text())["runs"] if path.exists() else []

    def run(self, cell: Cell, num_workers: int, load: float, count: int, seed: int, rate: float) -> dict:
        """That of this trace, a new one if there is none. ``count``: requests, about."""
        key = {"cell": cell.name, "workers": num_workers, "load": load, "asked": count, "seed": seed}
        for run in self.runs:
            if all(run[name] == value for name, value in key.items()):
                return run
        self.runs.append({**key, "rate": round(rate, 2), "arms": {}})
        return self.runs[-1]

    def write(self) -> None:
        self._path.write_text(json.dumps({**self._about, "runs": self.runs}) + "\n")


def run_cell(profile: HardwareProfile, cell: Cell, run: dict, rate: float, chosen: list[tuple[str, str]]) -> bool:
    """Plays a run's trace to those of the arms it lacks; whether there were any."""
    duration_s = run["asked"] / rate
    missing = [(policy, workers) for policy, workers in chosen if f"{policy} {workers}" not in run["arms"]]
    if not missing:
        return False
    specs = cell.trace(rate, duration_s, run["seed"])
    offered = [0] * NUM_BLOCKS
    for spec in specs:
        offered[min(NUM_BLOCKS - 1, int(spec.arrival_s / duration_s * NUM_BLOCKS))] += 1
    run.update(duration_s=round(duration_s, 2), count=len(specs), offered=offered)
    for policy, workers in missing:
        run["arms"][f"{policy} {workers}"] = run_arm(profile, policy, workers, specs, duration_s)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="h200_qwen3_8b")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument(
        "--cells", default=",".join(str(number) for number in range(len(CELLS))), help="numbers of CELLS"
    )
    parser.add_argument("--loads", default="0.1,0.3,0.5,0.7,0.9,1.1")
    parser.add_argument("--seeds", default=SEEDS)
    parser.add_argument("--requests", type=int, default=500, help="of a run, about; half of it below 50 %% load")
    parser.add_argument("--only", default="", help="policies to run; empty: all")
    parser.add_argument("--ablate", action="store_true", help="the oracle and the ablations, too")
    parser.add_argument("--again", default="", help="policies whose results are dropped first")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default=f"simulated-goodput_{time.strftime('%Y-%m-%d')}")
    args = parser.parse_args()
    profile = bundled(args.profile)
    only = [name for name in args.only.split(",") if name]
    extra = [name for name in ("oracle", *ABLATIONS) if args.ablate or name in only]
    chosen = [(p, w) for p, w in arms(args.workers, extra) if not only or p in only]
    record = Record(args.out / f"{args.name}.json", about_of(args, profile))
    for run in record.runs:
        run["arms"] = {a: row for a, row in run["arms"].items() if a.rpartition(" ")[0] not in args.again.split(",")}
    jobs = [
        (int(seed), float(load), CELLS[int(cell)])
        for seed in args.seeds.split(",")
        for cell in args.cells.split(",")
        for load in args.loads.split(",")
    ]
    for number, (seed, load, cell) in enumerate(jobs, 1):
        rate = load * cell.capacity(profile, args.workers)
        count = args.requests if load >= 0.5 else args.requests // 2
        run = record.run(cell, args.workers, load, count, seed, rate)
        if run_cell(profile, cell, run, rate, chosen):
            record.write()
            best = sorted(((row["attainment"], arm) for arm, row in run["arms"].items()), reverse=True)
            shown = ", ".join(f"{arm} {value:.1%}" for value, arm in best)
            print(f"{number}/{len(jobs)} {args.workers} {cell.name} {load} ({run['count']}): {shown}", flush=True)


def about_of(args: argparse.Namespace, profile: HardwareProfile) -> dict:
    options = f"--workers {args.workers} --cells {args.cells} --loads {args.loads} --seeds {args.seeds} --requests {args.requests}"
    options += (" --ablate" if args.ablate else "") + (f' --only "{args.only}"' if args.only else "")
    return {
        "profile": args.profile,
        "hardware": profile.hardware,
        "model": profile.model,
        "command": f"python -m benchmarks.simulation.goodput {options}",
    }


if __name__ == "__main__":
    main()
