"""What the cost model says against the real engine, request by request, on a CPU worker of one thread.

    python -m benchmarks.cost_model --profile cpu_smollm2 --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

Two runs of the same engine and scheduler over the same arrivals. Real: the model runner, on a clock that counts the thread's own CPU time (what other
programs take of the machine does not enter), and jumps over idle time. Predicted: an executor that takes as long as the profile's step model says.
Live: every step of the real run as the router would have foreseen it that had heard of the steps before, heartbeat by heartbeat.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.fidelity.steps import by_profile, describe_errors, foreseen, step_errors
from nanopd.batch import Batch, StepResult
from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.cost_model import HardwareProfile, StepFeatures, bundled
from nanopd.engine import Engine
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.workload import RequestSpec, named_workload, token_ids

MAX_LEN, NUM_BLOCKS = 2048, 768


@dataclass(slots=True)
class JumpingClock:
    """CPU time of the process, or time that only passes when told; idle time is jumped over."""

    is_real: bool
    offset: float = 0.0

    def now(self) -> float:
        return self.offset + (time.process_time() if self.is_real else 0.0)

    def advance(self, seconds: float) -> None:
        self.offset += seconds


class PredictedExecutor:
    """Steps take what the model says (and the host's overhead); every token is 1."""

    def __init__(self, profile: HardwareProfile, clock: JumpingClock) -> None:
        self._profile, self._clock = profile, clock

    def submit(self, batch: Batch) -> "PredictedStep":
        ms = self._profile.step.predict_ms(StepFeatures.of_batch(batch)) + self._profile.host_overhead_ms
        return PredictedStep(self._clock, ms, sum(piece.sample is not None for piece in batch.slices))


@dataclass(slots=True)
class PredictedStep:
    clock: JumpingClock
    ms: float
    num_rows: int

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        self.clock.advance(self.ms / 1e3)
        return StepResult([1] * self.num_rows, [None] * self.num_rows)


def serve(
    engine: Engine, clock: JumpingClock, specs: list[RequestSpec], vocab_size: int
) -> tuple[list[list[float]], list[tuple[StepFeatures, float]]]:
    """Token times of every request (seconds after its arrival), and every step."""
    start, pending, steps = clock.now(), list(enumerate(specs)), []
    times: list[list[float]] = [[] for _ in specs]
    prompts = [token_ids(spec, vocab_size) for spec in specs]
    while pending or engine.has_work:
        now = clock.now() - start
        if not engine.has_work and pending[0][1].arrival_s > now:
            clock.advance(pending[0][1].arrival_s - now)
            continue
        while pending and pending[0][1].arrival_s <= now:
            index, spec = pending.pop(0)
            params = SamplingParams(temperature=0.0, max_tokens=spec.num_output_tokens, seed=0, ignore_eos=True)
            engine.run_local(str(index), Request(str(index), prompts[index], params))
        report = engine.step()
        for output in report.outputs:
            index = int(output.seq_id)
            times[index] += [clock.now() - start - specs[index].arrival_s] * len(output.token_ids)
        if report.timing is not None:
            steps.append((StepFeatures.of_timing(report.timing), report.timing.step_ms))
    return times, steps


def make_engine(executor: Any, clock: JumpingClock) -> Engine:
    scheduler = SchedulerConfig(prefill_chunk_size=256)
    return Engine(Scheduler(scheduler, BlockManager(NUM_BLOCKS, 16, True), MAX_LEN), executor, clock)


def compare(real: list[list[float]], predicted: list[list[float]]) -> dict[str, dict[str, float]]:
    """Relative errors per request, and of the whole distribution's percentiles."""
    measures = {
        "ttft": lambda t: t[0],
        "tpot": lambda t: (t[-1] - t[0]) / (len(t) - 1),
        "e2e": lambda t: t[-1],
    }
    result = {}
    for name, measure in measures.items():
        pairs = [(measure(p), measure(r)) for p, r in zip(predicted, real, strict=True)]
        ours, theirs = sorted(p for p, _ in pairs), sorted(r for _, r in pairs)
        result[name] = {
            "median_error": round(median(abs(p / r - 1.0) for p, r in pairs), 4),
            "p50_error": round(median(ours) / median(theirs) - 1.0, 4),
            "p90_error": round(ours[int(0.9 * len(ours))] / theirs[int(0.9 * len(theirs))] - 1.0, 4),
            "real_p50_s": round(median(theirs), 4),
        }
    return result


def run(profile: HardwareProfile, specs: list[RequestSpec]) -> dict[str, Any]:
    config = EngineConfig(
        device="cpu",
        dtype=profile.dtype,
        num_threads=1,
        max_model_len=MAX_LEN,
        cache=CacheConfig(num_blocks=NUM_BLOCKS),
    )
    runner, clock, virtual = ModelRunner.load(config), JumpingClock(True), JumpingClock(False)
    runner.kv_cache.pool.fill_(0.01)
    vocab_size = runner.model_config.vocab_size
    real, steps = serve(make_engine(runner, clock), clock, specs, vocab_size)
    predicted, _steps = serve(make_engine(PredictedExecutor(profile, virtual), virtual), virtual, specs, vocab_size)
    model = profile.step
    inside = [model.quantile_ms(f, 0.05) <= ms <= model.quantile_ms(f, 0.95) for f, ms in steps]
    return {
        "num_requests": len(specs),
        "num_steps": len(steps),
        "step_error": step_errors(by_profile(model, steps), steps),
        "foreseen_step_error": step_errors(foreseen(model, steps), steps),
        "step_interval_90_covers": round(sum(inside) / len(inside), 3),
        "requests": compare(real, predicted),
    }


def markdown(record: dict[str, Any]) -> str:
    result = record["result"]
    lines = [
        f"# Cost model against the real engine, {record['hardware']}, {record['date']}",
        "",
        f"Commit {record['commit']}, profile {record['profile']}, load average at start {record['load_average']}. `{record['command']}`.",
        "",
        f"{result['num_requests']} requests, {record['workload']}; {result['num_steps']} steps, times in the thread's own CPU time. Median error "
        f"of a step's time (median excess) by the profile: {describe_errors(result['step_error'])}; the predicted 90 % interval covers "
        f"{result['step_interval_90_covers']:.0%} of the steps. By the profile and the steps before, told by heartbeats as to the router: "
        f"{describe_errors(result['foreseen_step_error'])}.",
        "",
        "| measure | real p50 | median error of a request | error of p50 | error of p90 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in result["requests"].items():
        cells = " | ".join(
            f"{row[key]:+.1%}" if key != "median_error" else f"{row[key]:.1%}"
            for key in ("median_error", "p50_error", "p90_error")
        )
        lines.append(f"| {name.upper()} | {row['real_p50_s'] * 1e3:.0f} ms | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="cpu_smollm2", help="bundled name or file")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    profile = HardwareProfile.load(Path(args.profile)) if args.profile.endswith(".json") else bundled(args.profile)
    drawn = named_workload("sharegpt", "poisson", args.rate, count=args.requests, seed=args.seed)
    specs = [
        replace(
            s, num_prompt_tokens=min(s.num_prompt_tokens, 512), num_output_tokens=max(4, min(s.num_output_tokens, 48))
        )
        for s in drawn
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "command": "python -m benchmarks.cost_model " + " ".join(sys.argv[1:]),
        "hardware": profile.hardware,
        "torch": torch.__version__,
        "profile": args.profile,
        "load_average": round(os.getloadavg()[0], 1),
        "workload": f"ShareGPT-like (prompts up to 512, outputs 4 to 48 tokens), Poisson {args.rate}/s",
        "result": run(profile, specs),
    }
    print(markdown(record))
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(markdown(record))


if __name__ == "__main__":
    main()
