"""What live steps are worth where the profile is wrong, in simulation: python -m benchmarks.wrong_profile --out benchmarks/results/NAME

Eight workers with the bundled profile of an H200 and mixed objectives; steps truly take what the profile says, or not. The adaptive router plans by
the profile alone, by the profile and the workers' heartbeats, and by the truth. Loads are of what the true workers could bear.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from benchmarks.simulation.cells import CELLS
from nanopd.config import ClusterConfig, Topology
from nanopd.cost_model import HardwareProfile, StepModel, bundled
from nanopd.cost_model.step_model import Table
from nanopd.request import Strategy
from nanopd.router.adaptive import AdaptiveOptions, AdaptiveRouter
from nanopd.simulator import Simulation, SimulationConfig
from nanopd.workload import RequestSpec

NUM_WORKERS, LOAD = 8, 0.85
ARMS = ("profile alone", "with live steps", "the truth")
WORLDS = {  # how much longer than the profile says: tokens, prompt attention, decode context
    "as the profile says": (1.0, 1.0, 1.0),
    "all steps 1.3 times as long": (1.3, 1.3, 1.3),
    "all steps 0.7 times as long": (0.7, 0.7, 0.7),
    "decodes read their context at half the rate": (1.0, 1.0, 2.0),
}


def scaled(step: StepModel, tokens: float, attention: float, context: float) -> StepModel:
    terms = step.terms

    def times(table: Table) -> Table:
        return Table(table.counts, tuple(ms * tokens for ms in table.ms))

    return StepModel(
        structs.replace(
            terms,
            tokens=times(terms.tokens),
            decodes=times(terms.decodes),
            prefill_ms=terms.prefill_ms * tokens,
            per_prefill_ms=terms.per_prefill_ms * tokens,
            attention_ms=terms.attention_ms * attention,
            context_ms=terms.context_ms * context,
        )
    )


def attained(profile: HardwareProfile, true_step: StepModel, specs: Sequence[RequestSpec], arm: str) -> float:
    """Share of the requests whose objectives were kept."""
    believed = structs.replace(profile, step=true_step) if arm == "the truth" else profile
    router = AdaptiveRouter(believed, AdaptiveOptions(use_live_steps=arm == "with live steps"))
    cluster = ClusterConfig(topology=Topology(num_collocated=NUM_WORKERS), strategy=Strategy.ADAPTIVE)
    simulation = Simulation(believed, router, SimulationConfig(cluster), step_model=true_step)
    return simulation.run(specs).attainment()


def run(profile: HardwareProfile, cell_name: str, duration_s: float, seeds: Sequence[int]) -> list[dict[str, object]]:
    """A row for each world, arm and seed."""
    cell = next(cell for cell in CELLS if cell.name == cell_name)
    rows: list[dict[str, object]] = []
    for world, factors in WORLDS.items():
        true_step = scaled(profile.step, *factors)
        rate = LOAD * cell.capacity(structs.replace(profile, step=true_step), NUM_WORKERS)
        for seed in seeds:
            specs = cell.trace(rate, duration_s, seed)
            for arm in ARMS:
                share = attained(profile, true_step, specs, arm)
                rows.append({"world": world, "arm": arm, "seed": seed, "requests": len(specs), "attained": share})
                print(rows[-1], flush=True)
    return rows


def markdown(record: dict[str, object], rows: Sequence[dict[str, object]]) -> str:
    lines = [
        f"# Adaptive router with a profile that is wrong, {record['date']}",
        "",
        f"Simulated; commit {record['commit']} with its working tree; profile {record['profile']}, {NUM_WORKERS} workers, {record['cell']} at "
        f"{LOAD:.0%} of what the true workers could bear, {record['duration_s']} s of arrivals, seeds {record['seeds']}. Share of the requests whose "
        "objectives were kept, seed by seed. `python -m benchmarks.wrong_profile`",
        "",
        f"| steps | {' | '.join(f'plans by {arm}' if arm != ARMS[1] else 'plans by the profile and live steps' for arm in ARMS)} |",
        "| --- | --- | --- | --- |",
    ]
    for world in WORLDS:
        cells = [
            " / ".join(f"{row['attained']:.1%}" for row in rows if (row["world"], row["arm"]) == (world, arm))
            for arm in ARMS
        ]
        lines.append(f"| {world} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="h200_qwen3_8b", help="a bundled one (%(default)s)")
    parser.add_argument("--cell", default="mixed objectives", help="of benchmarks/simulation (%(default)s)")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of arrivals (%(default)s)")
    parser.add_argument("--seeds", default="1,2,3", help="(%(default)s)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seeds = [int(word) for word in args.seeds.split(",")]
    rows = run(bundled(args.profile), args.cell, args.duration, seeds)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    record: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.strip(),
        "profile": args.profile,
        "cell": args.cell,
        "duration_s": args.duration,
        "seeds": args.seeds,
    }
    print(text := markdown(record, rows))
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps({**record, "rows": rows}) + "\n")
        args.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
