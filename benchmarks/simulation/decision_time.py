"""How long a routing decision takes and how fast the simulator is: ``python benchmarks/simulation/decision_time.py --out FILE.md``."""

import argparse
import time
from collections.abc import Collection
from pathlib import Path

from nanopd.cost_model import bundled
from nanopd.metrics import percentile
from nanopd.request import FinishReason, Request, Strategy
from nanopd.router import ClusterView, Decision, Router, build
from nanopd.simulator import capacity, simulate
from nanopd.workload import named_workload


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--requests-per-worker", type=int, default=40)
    parser.add_argument("--workers", default="2,8,64")
    args = parser.parse_args()
    profile = bundled("h200_qwen3_8b")
    lines = [
        "# Decision time of the adaptive router, and the simulator's speed",
        "",
        f"Simulated H200 workers, load {args.load:.0%} of capacity, CPU time of one shared core. Milliseconds of a call of `plan`.",
        "",
        "| workers | workload | decisions | p50 | p99 | max | requests per minute of one core |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count in map(int, args.workers.split(",")):
        for shape in ("sharegpt", "mixed-slo"):
            rate = args.load * capacity(profile, named_workload(shape, "poisson", 1.0, count=500, seed=0), count)
            specs = named_workload(shape, "poisson", rate, count=count * args.requests_per_worker, seed=11)
            router = Timed(build(profile.kv_bytes_per_token, "cuda", "adaptive", profile))
            began = time.process_time()
            simulate(profile, f"{count}C", "adaptive", specs, router=router)
            speed = len(specs) / (time.process_time() - began) * 60
            times = router.times
            p50, p99 = percentile(times, 50), percentile(times, 99)
            lines.append(
                f"| {count} | {shape} | {len(times)} | {p50:.3f} | {p99:.3f} | {max(times):.3f} | {speed:.0f} |"
            )
            print(lines[-1], flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
