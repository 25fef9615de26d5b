"""Goodput of every policy over workloads, SLO regimes and loads, in simulation: ``python benchmarks/simulation/goodput.py --out DIR``.

Each cell plays one pre-generated trace to every arm, same number of workers in every arm, seeds other than those the router was tuned on.
Loads are shares of ``nanopd.simulator.capacity``. Writes NAME.json (all numbers) and NAME.md (the record).
"""

import argparse
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from nanopd.cost_model import HardwareProfile, bundled
from nanopd.request import Slo
from nanopd.simulator import capacity, simulate
from nanopd.workload import named_workload

SEEDS = "101"  # several: 101,102; the router was tuned on 1 to 9
LOADS = (0.4, 0.7, 0.9, 1.1)
STATIC = {
    2: (("collocated", "2C"), ("disaggregated", "1P+1D")),
    8: (("collocated", "8C"), ("disaggregated", "2P+6D"), ("disaggregated", "4P+4D"), ("disaggregated", "6P+2D")),
    64: (
        ("collocated", "64C"),
        ("disaggregated", "16P+48D"),
        ("disaggregated", "32P+32D"),
        ("disaggregated", "48P+16D"),
    ),
}
BASELINES = ("least-work", "original", "dynamo", "arrow", "taichi", "kairos")
ABLATIONS = ("oracle", "adaptive-mean", "adaptive-selfish", "adaptive-unreserved")


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload under one set of objectives."""

    name: str
    shape: str
    slo: Slo | None  # None: the workload's own


# TaiChi's three regimes, its goals scaled from 60 ms steps to the 5 ms of this profile.
CELLS = (
    Cell("sharegpt, tight TPOT", "sharegpt", Slo(2000.0, 7.5)),
    Cell("long, tight TTFT", "long", Slo(150.0, 40.0)),
    Cell("long, balanced", "long", Slo(400.0, 10.0)),
    Cell("mixed-slo", "mixed-slo", None),
)


def run_cell(
    profile: HardwareProfile, cell: Cell, num_workers: int, load: float, count: int, seed: int, ablate: bool
) -> dict:
    rate = load * capacity(profile, named_workload(cell.shape, "poisson", 1.0, count=2000, seed=0), num_workers)
    specs = named_workload(cell.shape, "poisson", rate, count=count, seed=seed, slo=cell.slo)
    half = num_workers // 2
    arms = [*STATIC[num_workers]]
    arms += [
        (name, f"{half}P+{half}D" if name in ("dynamo", "kairos", "taichi") else f"{num_workers}C")
        for name in BASELINES
    ]
    arms += [(name, f"{num_workers}C") for name in ("adaptive", *(ABLATIONS if ablate else ()))]
    rows = {}
    for policy, workers in arms:
        began = time.process_time()
        result = simulate(profile, workers, policy, specs)
        spent = time.process_time() - began
        ttft, tpot = result.summaries()["ttft_ms"], result.summaries()["tpot_ms"]
        rows[f"{policy} {workers}"] = {
            "attainment": round(result.attainment(), 4),
            "goodput": round(result.goodput(), 3),
            "ttft_ms": [round(ttft.p50, 1), round(ttft.p90, 1), round(ttft.p99, 1)] if ttft else None,
            "tpot_ms": [round(tpot.p50, 2), round(tpot.p90, 2), round(tpot.p99, 2)] if tpot else None,
            "paths": result.paths(),
            "requests_per_cpu_minute": round(count / spent * 60),
        }
    return {
        "cell": cell.name,
        "workers": num_workers,
        "load": load,
        "rate": round(rate, 2),
        "seed": seed,
        "count": count,
        "arms": rows,
    }


def merged(runs: list[dict]) -> list[dict]:
    """Runs of one cell under several seeds: attainment averaged."""
    cells: dict[tuple, dict] = {}
    for run in runs:
        key = (run["cell"], run["workers"], run["load"])
        cell = cells.setdefault(
            key, {"cell": key[0], "workers": key[1], "load": key[2], "rate": run["rate"], "arms": {}}
        )
        for arm, row in run["arms"].items():
            cell["arms"].setdefault(arm, []).append(row["attainment"])
    for cell in cells.values():
        cell["arms"] = {arm: sum(values) / len(values) for arm, values in cell["arms"].items()}
    order = {cell.name: number for number, cell in enumerate(CELLS)}
    return sorted(cells.values(), key=lambda c: (c["workers"], order[c["cell"]], c["load"]))


def table(cells: list[dict]) -> list[str]:
    lines = [
        "| workers | workload | load | req/s | collocated | best disaggregated | best baseline | adaptive | vs best static | vs best baseline |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in cells:
        arms = c["arms"]
        adaptive = arms[f"adaptive {c['workers']}C"]
        collocated = arms[f"collocated {c['workers']}C"]
        apart, apart_name = max((v, k.split()[1]) for k, v in arms.items() if k.startswith("disaggregated"))
        other, other_name = max((v, k.split()[0]) for k, v in arms.items() if k.split()[0] in BASELINES)
        lines.append(
            f"| {c['workers']} | {c['cell']} | {c['load']:.0%} | {c['rate']:.1f} | {collocated:.1%} | {apart:.1%} ({apart_name}) "
            f"| {other:.1%} ({other_name}) | **{adaptive:.1%}** | {ratio(adaptive, max(collocated, apart))} | {ratio(adaptive, other)} |"
        )
    return lines


def ratio(a: float, b: float) -> str:
    return f"{a / b - 1:+.1%}" if b else "n/a"


def verdict(cells: list[dict]) -> list[str]:
    """Against the aims, in numbers."""
    rows = []
    for c in cells:
        arms, adaptive = c["arms"], c["arms"][f"adaptive {c['workers']}C"]
        static = max(v for k, v in arms.items() if k.split()[0] in ("collocated", "disaggregated"))
        base = max(v for k, v in arms.items() if k.split()[0] in BASELINES)
        rows.append((adaptive >= 0.98 * static, adaptive >= 0.98 * base))
    return [
        f"- within 2 % of the best static strategy or better: {sum(a for a, _ in rows)} of {len(rows)} cells",
        f"- within 2 % of the best baseline or better: {sum(b for _, b in rows)} of {len(rows)} cells",
    ]


def ablation_table(cells: list[dict]) -> list[str]:
    shown = [c for c in cells if f"oracle {c['workers']}C" in c["arms"]]
    lines = [
        "| workers | workload | load | adaptive | oracle | mean only | no externality | no reservation |",
        "| --- " * 8 + "|",
    ]
    for c in shown:
        values = [c["arms"][f"{name} {c['workers']}C"] for name in ("adaptive", *ABLATIONS)]
        lines.append(
            f"| {c['workers']} | {c['cell']} | {c['load']:.0%} | " + " | ".join(f"{v:.1%}" for v in values) + " |"
        )
    return ["## Ablations and the oracle", "", *lines] if shown else []


def plot(cells: list[dict], path: Path) -> bool:
    """Attainment by load; False without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    groups = sorted({(c["workers"], c["cell"]) for c in cells})
    columns = len({name for _, name in groups})
    figure, axes = pyplot.subplots(
        len(groups) // columns, columns, figsize=(4 * columns, 3 * (len(groups) // columns)), squeeze=False
    )
    for axis, (workers, name) in zip(axes.flat, groups, strict=False):
        chosen = sorted((c for c in cells if (c["workers"], c["cell"]) == (workers, name)), key=lambda c: c["load"])
        for arm in chosen[0]["arms"]:
            if arm.split()[0] not in ABLATIONS:
                style = {"lw": 2.5, "color": "black"} if arm.startswith("adaptive") else {"lw": 1}
                axis.plot(
                    [100 * c["load"] for c in chosen],
                    [100 * c["arms"][arm] for c in chosen],
                    label=arm,
                    marker=".",
                    **style,
                )
        axis.set_title(f"{workers} workers, {name}", fontsize=8)
        axis.set_xlabel("load, % of capacity", fontsize=7)
        axis.set_ylabel("requests within SLO, %", fontsize=7)
    axes.flat[0].legend(fontsize=5)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="h200_qwen3_8b")
    parser.add_argument("--workers", default="2,8")
    parser.add_argument("--count", type=int, default=500, help="requests of a run")
    parser.add_argument("--seeds", default=SEEDS)
    parser.add_argument("--loads", default=",".join(map(str, LOADS)))
    parser.add_argument("--budget-s", type=float, default=1e9, help="start no run after this many seconds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default=f"simulated-goodput_{time.strftime('%Y-%m-%d')}")
    args = parser.parse_args()
    profile, runs, began = bundled(args.profile), [], time.monotonic()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    jobs = [
        (cell, int(workers), float(load), seed)
        for seed in map(int, args.seeds.split(","))
        for load in args.loads.split(",")
        for workers in args.workers.split(",")
        for cell in CELLS
    ]
    for number, (cell, workers, load, seed) in enumerate(jobs, 1):
        if time.monotonic() - began > args.budget_s:
            print(f"the time is over after {number - 1} of {len(jobs)} runs")
            break
        runs.append(run_cell(profile, cell, workers, load, args.count, seed, ablate=workers == 8 and load == 0.9))
        best = sorted(((row["attainment"], arm) for arm, row in runs[-1]["arms"].items()), reverse=True)[:3]
        own = runs[-1]["arms"][f"adaptive {workers}C"]["attainment"]
        print(f"{number}/{len(jobs)} {workers} {cell.name} {load}: adaptive {own}, best {best}", flush=True)
        write(args, profile, commit, runs)


def write(args: argparse.Namespace, profile: HardwareProfile, commit: str, runs: list[dict]) -> None:
    cells = merged(runs)
    has_plot = plot(cells, args.out / f"{args.name}.png")
    speeds = sorted(row["requests_per_cpu_minute"] for run in runs for row in run["arms"].values())
    seeds = sorted({run["seed"] for run in runs})
    text = [
        "# Goodput in simulation",
        "",
        f"Requests that kept both objectives, as a share of all. Profile {profile.hardware}, {profile.model} {profile.dtype} ({profile.source}).",
        f"Commit {commit} with its working tree, {args.count} requests a run, seeds {seeds}, Poisson arrivals, steps without noise.",
        f"Median speed {speeds[len(speeds) // 2]} requests per minute of one core (slowest {speeds[0]}).",
        f"Command: `python benchmarks/simulation/goodput.py --workers {args.workers} --count {args.count} --seeds {args.seeds} "
        f"--loads {args.loads}`.",
        "",
        *verdict(cells),
        "",
        *table(cells),
        "",
        *ablation_table(cells),
        *(["", f"![by load]({args.name}.png)"] if has_plot else []),
    ]
    (args.out / f"{args.name}.md").write_text("\n".join(text) + "\n")
    (args.out / f"{args.name}.json").write_text(
        json.dumps({"commit": commit, "profile": args.profile, "runs": runs}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
