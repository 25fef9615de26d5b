"""The simulator's speed at 8 workers: requests per minute of one core, with and without stretches (``nanopd.simulator.stretch``).

    PYTHONPATH=. python benchmarks/simulation/speed.py --out benchmarks/results/simulator-speed_DATE.md

CPU time of the process, the fastest of a few runs: what else the machine does only adds.
"""

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

from nanopd.config import ClusterConfig, SchedulerConfig, Topology
from nanopd.cost_model import HardwareProfile, bundled
from nanopd.request import FinishReason, Request, Strategy
from nanopd.router import ClusterView, Decision, Router, build
from nanopd.simulator import Simulation, SimulationConfig
from nanopd.workload import named_workload

RATES = {"sharegpt": 100.0, "mixed-slo": 16.0}  # per second: some 90 % of eight H200 workers' time
ARMS = (("collocated", "8C"), ("disaggregated", "2P+6D"), ("least-work", "8C"), ("adaptive", "8C"))


class TimedRouter:
    """A router whose share of the time is known."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.seconds = 0.0

    def plan(
        self,
        request: Request,
        strategy: Strategy,
        num_output_tokens: int,
        cluster: ClusterView,
        avoid: Collection[str],
        now: float,
    ) -> Decision | None:
        began = time.process_time()
        decision = self._router.plan(request, strategy, num_output_tokens, cluster, avoid, now)
        self.seconds += time.process_time() - began
        return decision

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        self._router.finished(request, num_output_tokens, reason, now)


def run(
    profile: HardwareProfile, shape: str, policy: str, workers: str, count: int, fast_forward: bool
) -> tuple[float, float, int]:
    """Seconds in all, seconds of the router, events."""
    is_pure = policy in ("collocated", "disaggregated")
    router = TimedRouter(build(profile.kv_bytes_per_token, "cuda", "fixed" if is_pure else policy, profile))
    strategy = Strategy(policy) if is_pure else Strategy.ADAPTIVE
    cluster = ClusterConfig(topology=Topology.parse(workers), strategy=strategy)
    config = SimulationConfig(cluster, SchedulerConfig(max_num_seqs=256), fast_forward=fast_forward)
    specs = named_workload(shape, "poisson", RATES[shape], count=count, seed=11)
    simulation = Simulation(profile, router, config)
    began = time.process_time()
    simulation.run(specs)
    return time.process_time() - began, router.seconds, simulation.events.num_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="h200_qwen3_8b")
    parser.add_argument("--count", type=int, default=1000, help="requests of a run (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    profile = bundled(args.profile)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [
        f"# Speed of the simulator, 8 workers, {time.strftime('%Y-%m-%d')}",
        "",
        f"Profile {profile.hardware}, {profile.model}; {args.count} requests a run, the fastest of {args.repeats}; one core of {platform.machine()}, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f} at the start; commit {commit.stdout.strip()} with its working "
        "tree. Requests per minute of CPU time. Outcomes are the same with and without stretches.",
        "",
        "| workload | policy | workers | requests/min | of that the router | without stretches | events | without |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for shape in RATES:
        for policy, workers in ARMS:
            runs = {
                mode: min(run(profile, shape, policy, workers, args.count, mode) for _ in range(args.repeats))
                for mode in (True, False)
            }
            (fast, router_s, events), (slow, _, slow_events) = runs[True], runs[False]
            lines.append(
                f"| {shape} | {policy} | {workers} | **{60 * args.count / fast:.0f}** | {router_s / fast:.0%} | {60 * args.count / slow:.0f} "
                f"| {events} | {slow_events} |"
            )
            print(lines[-1], flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
