"""How long a routing decision takes and how fast the simulator is: ``python -m benchmarks.simulation.decision_time --out FILE.md``."""

import argparse
import time
from collections.abc import Collection
from pathlib import Path

from benchmarks.simulation.cells import CELLS
from nanopd.cost_model import HardwareProfile, bundled
from nanopd.metrics import percentile
from nanopd.request import FinishReason, Request, Strategy
from nanopd.router import ClusterView, Decision, Router, build
from nanopd.simulator import simulate
from nanopd.workload import RequestSpec

WORKLOADS = ("sharegpt, tight TPOT", "mixed objectives", "long context")  # short prompts, all kinds, the longest


class Timed:
    """A router that notes how long each plan took, milliseconds of this thread's own time."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.times: list[float] = []

    def plan(
        self,
        request: Request,
        strategy: Strategy,
        num_output_tokens: int,
        cluster: ClusterView,
        avoid: Collection[str],
        now: float,
    ) -> Decision | None:
        began = time.thread_time()
        decision = self._router.plan(request, strategy, num_output_tokens, cluster, avoid, now)
        self.times.append((time.thread_time() - began) * 1e3)
        return decision

    def finished(self, request: Request, num_output_tokens: int, reason: FinishReason, now: float) -> None:
        self._router.finished(request, num_output_tokens, reason, now)


def calibration_ms() -> float:
    """A million rounds of an empty loop: how fast this core is just now."""
    began = time.thread_time()
    for _ in range(1_000_000):
        pass
    return (time.thread_time() - began) * 1e3


def measure(
    profile: HardwareProfile, num_workers: int, specs: list[RequestSpec], repeats: int
) -> tuple[list[float], float]:
    """Each decision's milliseconds, and the seconds of a run: the least of ``repeats`` equal runs, since other processes only add."""
    runs: list[list[float]] = []
    spent = float("inf")
    for _ in range(repeats):
        router = Timed(build(profile.kv_bytes_per_token, "cuda", "adaptive", profile))
        began = time.process_time()
        simulate(profile, f"{num_workers}C", "adaptive", specs, router=router)
        spent = min(spent, time.process_time() - began)
        runs.append(router.times)
    return [min(times) for times in zip(*runs, strict=True)], spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--workers", default="8,64")
    parser.add_argument("--repeats", type=int, default=3, help="equal runs; the least time of each decision counts")
    args = parser.parse_args()
    profile, idle = bundled("h200_qwen3_8b"), [calibration_ms()]
    rows = []
    for count in map(int, args.workers.split(",")):
        for cell in (cell for cell in CELLS if cell.name in WORKLOADS):
            rate = args.load * cell.capacity(profile, count)
            specs = cell.trace(rate, args.requests / rate, 11)
            times, spent = measure(profile, count, specs, args.repeats)
            speed = len(specs) / spent * 60
            p50, p99 = percentile(times, 50), percentile(times, 99)
            rows.append(
                f"| {count} | {cell.name} | {len(times)} | {p50:.3f} | {p99:.3f} | {max(times):.3f} | {speed:.0f} |"
            )
            print(rows[-1], flush=True)
            idle.append(calibration_ms())
    lines = [
        "# Decision time of the adaptive router, and the simulator's speed",
        "",
        f"Simulated H200 workers, load {args.load:.0%} of capacity. Milliseconds of the calling thread's own time in `plan`, on a shared core.",
        f"A million rounds of an empty loop took {min(idle):.0f} to {max(idle):.0f} ms of the same kind of time between the rows.",
        f"Each decision was made in {args.repeats} equal runs; the least of its times counts, since whatever else the machine does only adds.",
        f"Command: `python -m benchmarks.simulation.decision_time --workers {args.workers} --load {args.load} --requests {args.requests} "
        f"--repeats {args.repeats}`.",
        "",
        "| workers | workload | decisions | p50 | p99 | max | requests per minute of one core |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
