"""The record of goodput runs: ``python -m benchmarks.simulation.goodput_report NAME RUNS.json ... --out DIR``.

Writes NAME.md, NAME.json, NAME.png (goodput by load) and NAME-regret.png. Runs of the same cell, load and seed in several files are one run with the
arms of all.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.simulation.cells import ABLATIONS, BASELINES, CELLS
from benchmarks.simulation.goodput_figures import plot_by_load, plot_regret

NUM_RESAMPLES = 2000
MARGIN = 0.98  # of the best other arm: what "not more than 2 % below" means
STATIC = ("collocated", "disaggregated")


@dataclass
class CellRuns:
    """One cell under one load: all its seeds."""

    name: str
    workers: int
    load: float
    rate: float
    offered: list[int] = field(default_factory=list)  # requests of each stretch, all seeds one after the other
    kept: dict[str, list[int]] = field(default_factory=dict)  # of them, those that kept their objectives, by arm
    by_tenant: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def attainment(self, arm: str) -> float:
        return sum(self.kept[arm]) / sum(self.offered)

    @property
    def has_rivals(self) -> bool:
        """Whether pure strategies and baselines ran, too."""
        return None not in (self.best(("collocated",)), self.best(("disaggregated",)), self.best(BASELINES))

    @property
    def adaptive(self) -> str:
        return f"adaptive {self.workers}C"

    def best(self, policies: Iterable[str]) -> str | None:
        """The best arm of any of these policies."""
        arms = [arm for arm in self.kept if policy_of(arm) in tuple(policies)]
        return max(arms, key=self.attainment, default=None)

    def gain(self, arm: str) -> tuple[float, float, float]:
        """Adaptive's goodput over the arm's, minus 1; with a 95 % interval: stretches of the traces drawn anew, the same for both arms."""
        ours, theirs = self.kept[self.adaptive], self.kept[arm]
        rng, ratios = Random(0), []
        for _ in range(NUM_RESAMPLES):
            drawn = rng.choices(range(len(ours)), k=len(ours))
            ratios.append(sum(ours[i] for i in drawn) / max(1, sum(theirs[i] for i in drawn)) - 1.0)
        ratios.sort()
        low, high = ratios[int(0.025 * NUM_RESAMPLES)], ratios[int(0.975 * NUM_RESAMPLES)]
        return sum(ours) / max(1, sum(theirs)) - 1.0, low, high


def policy_of(arm: str) -> str:
    return arm.rpartition(" ")[0]


def joined(files: list[dict]) -> list[dict]:
    """Runs of all files; those over the same trace become one, with the arms of each."""
    runs: dict[tuple, dict] = {}
    for run in (run for file in files for run in file["runs"]):
        key = (run["workers"], run["cell"], run["load"], run["seed"], run["count"])
        arms = {**runs[key]["arms"], **run["arms"]} if key in runs else run["arms"]
        runs[key] = {**run, "arms": arms}
    return list(runs.values())


def gather(runs: list[dict]) -> list[CellRuns]:
    """By cell and load, all seeds together; arms that are not in every seed are left out."""
    cells: dict[tuple, CellRuns] = {}
    for run in runs:
        key = (run["workers"], run["cell"], run["load"])
        cell = cells.setdefault(key, CellRuns(run["cell"], run["workers"], run["load"], run["rate"]))
        cell.offered += run["offered"]
        for arm, row in run["arms"].items():
            cell.kept.setdefault(arm, []).extend(row["kept"])
            for tenant, share in row["by_tenant"].items():
                cell.by_tenant.setdefault(arm, {}).setdefault(tenant, []).append(share)
    for cell in cells.values():
        cell.kept = {arm: kept for arm, kept in cell.kept.items() if len(kept) == len(cell.offered)}
    order = {cell.name: number for number, cell in enumerate(CELLS)}
    return sorted(cells.values(), key=lambda c: (c.workers, order[c.name], c.load))


def percent(value: float) -> str:
    return f"{value:+.1%}"


def table(cells: list[CellRuns]) -> list[str]:
    lines = [
        "| workers | workload | load | req/s | collocated | best disaggregated | best baseline | adaptive | vs best static | vs best baseline |",
        "| --- " * 10 + "|",
    ]
    for cell in cells:
        apart, base = cell.best(("disaggregated",)), cell.best(BASELINES)
        static = cell.best(STATIC)
        assert apart is not None and base is not None and static is not None
        versus = []
        for arm in (static, base):
            value, low, high = cell.gain(arm)
            versus.append(f"{percent(value)} ({percent(low)} to {percent(high)})")
        lines.append(
            f"| {cell.workers} | {cell.name} | {cell.load:.0%} | {cell.rate:.1f} | {cell.attainment(f'collocated {cell.workers}C'):.1%} "
            f"| {cell.attainment(apart):.1%} ({apart.split()[-1]}) | {cell.attainment(base):.1%} ({policy_of(base)}) "
            f"| **{cell.attainment(cell.adaptive):.1%}** | {versus[0]} | {versus[1]} |"
        )
    return lines


def verdict(cells: list[CellRuns]) -> list[str]:
    """Against the aims, in numbers."""
    lines = []
    for title, policies in (("static strategy", STATIC), ("baseline", BASELINES)):
        kept, sure, missed = 0, 0, []
        for cell in cells:
            rival = cell.best(policies)
            assert rival is not None
            value, low, _ = cell.gain(rival)
            kept += value >= MARGIN - 1.0
            sure += low >= MARGIN - 1.0
            if value < MARGIN - 1.0:
                missed.append(f"{cell.workers} workers, {cell.name}, {cell.load:.0%}: {percent(value)} against {rival}")
        lines.append(
            f"- not more than 2 % below the best {title}: {kept} of {len(cells)} cells, the whole 95 % interval in {sure}"
        )
        lines += [f"  - {miss}" for miss in missed]
    return lines


def pure_table(cells: list[CellRuns]) -> list[str]:
    """Mixed objectives: what each kind of request gets, and the gain over both pure strategies."""
    chosen = [c for c in cells if c.name.startswith("mixed objectives")]
    if not chosen:
        return []
    lines = [
        "## Mixed objectives: each kind of request",
        "",
        "Share of each kind that kept its objectives, and adaptive's goodput over each arm's.",
        "",
    ]
    lines += ["| workers | workload | load | arm | chat | agent | batch | adaptive's gain |", "| --- " * 8 + "|"]
    for cell in chosen:
        rivals = (f"collocated {cell.workers}C", cell.best(("disaggregated",)), cell.best(BASELINES), cell.adaptive)
        for arm in rivals:
            assert arm is not None
            kinds = [sum(values) / len(values) for _, values in sorted(cell.by_tenant[arm].items())]
            agent, batch, chat = kinds
            value, low, high = cell.gain(arm)
            gain = "" if arm == cell.adaptive else f"{percent(value)} ({percent(low)} to {percent(high)})"
            lines.append(
                f"| {cell.workers} | {cell.name} | {cell.load:.0%} | {arm} | {chat:.1%} | {agent:.1%} | {batch:.1%} | {gain} |"
            )
    return ["", *lines]


def plain_table(cells: list[CellRuns]) -> list[str]:
    """Cells in which only some arms ran."""
    if not cells:
        return []
    lines = ["| workers | workload | load | within objectives |", "| --- " * 4 + "|"]
    for cell in cells:
        arms = sorted(cell.kept, key=cell.attainment, reverse=True)
        shown = ", ".join(f"{arm} {cell.attainment(arm):.1%}" for arm in arms)
        lines.append(f"| {cell.workers} | {cell.name} | {cell.load:.0%} | {shown} |")
    return lines


def ablation_table(cells: list[CellRuns]) -> list[str]:
    names = ("oracle", *ABLATIONS)
    shown = [c for c in cells if f"oracle {c.workers}C" in c.kept]
    if not shown:
        return []
    lines = [
        "## Ablations, and the regret against an oracle",
        "",
        "The oracle is the same router that knows how long each answer will be.",
        "",
    ]
    lines += [f"| workers | workload | load | adaptive | {' | '.join(names)} |", "| --- " * (4 + len(names)) + "|"]
    for cell in shown:
        values = [
            cell.attainment(f"{name} {cell.workers}C")
            for name in ("adaptive", *names)
            if f"{name} {cell.workers}C" in cell.kept
        ]
        row = " | ".join(f"{value:.1%}" for value in values)
        lines.append(f"| {cell.workers} | {cell.name} | {cell.load:.0%} | {row} |")
    return ["", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    files = [json.loads(path.read_text()) for path in args.runs]
    runs = joined(files)
    cells = gather(runs)
    compared = [cell for cell in cells if cell.has_rivals]
    if compared:
        plot_by_load(compared, args.out / f"{args.name}.png")
        plot_regret(compared, args.out / f"{args.name}-regret.png")
    speeds = sorted(row["requests_per_cpu_minute"] for run in runs for row in run["arms"].values())
    seeds = sorted({run["seed"] for run in runs})
    counts = [run["count"] for run in runs]
    commit = next(row["commit"] for run in runs for row in run["arms"].values())
    text = [
        "# Goodput in simulation",
        "",
        f"Requests that kept both objectives, as a share of all. Profile {files[0]['profile']} ({files[0]['hardware']}, {files[0]['model']}).",
        f"Poisson arrivals (bursty: gamma, coefficient of variation 3), seeds {seeds}, {min(counts)} to {max(counts)} requests a trace, "
        f"{sum(counts)} in all; the start of every trace included.",
        "100 % load is what the workers could serve if prompts and decodes never met in a step and each decode ran in the largest batch that",
        "keeps its goal, prompts that share a start computing it once (`nanopd.simulator.capacity`). In brackets: 95 % intervals, twentieths of the",
        "traces drawn anew; the traces are short, so they are wide. The best of several arms is picked with hindsight in each cell, which",
        "favours it.",
        f"Commit {commit} with its working tree. Median speed {speeds[len(speeds) // 2]} requests per minute of a shared core.",
        *dict.fromkeys(f"Command: `{file['command']}`." for file in files),
        "",
        *([*verdict(compared), "", *table(compared), *pure_table(compared)] if compared else []),
        *plain_table([cell for cell in cells if not cell.has_rivals and f"oracle {cell.workers}C" not in cell.kept]),
        *ablation_table(cells),
        *(["", f"![by load]({args.name}.png)", "", f"![regret]({args.name}-regret.png)"] if compared else []),
    ]
    (args.out / f"{args.name}.md").write_text("\n".join(text) + "\n")
    (args.out / f"{args.name}.json").write_text(
        json.dumps({**files[0], "command": [f["command"] for f in files], "runs": runs}) + "\n"
    )


if __name__ == "__main__":
    main()
