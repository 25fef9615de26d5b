"""Where the adaptive router sends prompts, by load and prompt length: writes NAME.json and NAME.png.

``python -m benchmarks.simulation.routing_map``
"""

import argparse
import json
import time
from pathlib import Path

from nanopd.cost_model import HardwareProfile, bundled
from nanopd.request import Slo
from nanopd.simulator import capacity, simulate
from nanopd.workload import generate
from nanopd.workload.arrivals import arrival_times
from nanopd.workload.shapes import Lengths, LogNormalShape

EDGES = (0, 128, 256, 512, 1024, 2048, 4096, 8192)  # of prompt lengths, tokens
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9)
SHAPE = LogNormalShape(Lengths(600, 1.3, 16, 8191), Lengths(140, 0.8, 4, 1024), 1024)
SLO = Slo(1000.0, 8.0)


def shares(profile: HardwareProfile, num_workers: int, load: float, count: int, seed: int) -> list[float | None]:
    """Share of the prompts in each bin that prefill and decode on different workers; None for an empty bin."""
    sample = generate(SHAPE, arrival_times("poisson", 1.0, 0), count=1000, slo=SLO)
    rate = load * capacity(profile, sample, num_workers)
    specs = generate(SHAPE, arrival_times("poisson", rate, seed), count=count, slo=SLO, seed=seed)
    bins: list[list[bool]] = [[] for _ in EDGES[1:]]
    for record in simulate(profile, f"{num_workers}C", "adaptive", specs).records:
        index = next(i for i, edge in enumerate(EDGES[1:]) if record.num_prompt_tokens < edge)
        bins[index].append(record.path == "disaggregated")
    return [sum(values) / len(values) if values else None for values in bins]


def plot(rows: list[list[float | None]], num_workers: int, path: Path) -> None:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.4, 3.2))
    grid = [[float("nan") if value is None else 100 * value for value in row] for row in rows]
    image = axis.imshow(grid, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=100)
    axis.set_xticks(range(len(EDGES) - 1), [f"< {edge}" for edge in EDGES[1:]], fontsize=7)
    axis.set_yticks(range(len(LOADS)), [f"{load:.0%}" for load in LOADS])
    axis.set_xlabel("prompt tokens")
    axis.set_ylabel("load, of capacity")
    axis.set_title(f"{num_workers} workers: prefilled apart from the decode, % of prompts", fontsize=9)
    figure.colorbar(image)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="h200_qwen3_8b")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=500, help="for each load")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default=f"simulated-routing-map_{time.strftime('%Y-%m-%d')}")
    args = parser.parse_args()
    profile = bundled(args.profile)
    rows = [shares(profile, args.workers, load, args.requests, args.seed) for load in LOADS]
    for load, row in zip(LOADS, rows, strict=True):
        print(f"{load:.0%}", ["-" if value is None else f"{value:.0%}" for value in row], flush=True)
    about = {"profile": args.profile, "workers": args.workers, "requests": args.requests, "seed": args.seed}
    record = {**about, "slo_ms": [SLO.ttft_ms, SLO.tpot_ms], "edges": EDGES, "loads": LOADS, "disaggregated": rows}
    (args.out / f"{args.name}.json").write_text(json.dumps(record) + "\n")
    plot(rows, args.workers, args.out / f"{args.name}.png")


if __name__ == "__main__":
    main()
