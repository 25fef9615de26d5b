"""Measure, fit, serve, compare: what nanopd does with a machine it has never seen.

    python examples/adaptive_cluster.py                        # the embedded model on a CPU: about two minutes
    python examples/adaptive_cluster.py --model benchmarks/models/qwen3-8b --load-format dummy --device cuda --rate 8 --requests 200

1. *Profile*: times some dozens of kinds of steps and the KV transfer, and fits the cost model to them.
2. *Simulate*: plays a Poisson trace to the cluster in virtual time, with that profile.
3. *Serve*: plays the same trace to real workers; the router decides for each request with the same cost model.
4. *Report*: latencies, predicted and real, and which way the requests went. ``--out FILE`` keeps it as JSON.

Each line about progress begins with the seconds since the start. ``--profile FILE`` keeps the profile; the next run reads it instead of measuring.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nanopd.bench.environment import describe_environment
from nanopd.cluster.events import RequestReport
from nanopd.config import Topology
from nanopd.cost_model import HardwareProfile
from nanopd.llm import AsyncLLM
from nanopd.metrics import RequestTimes, Summary, goodput, slo_attainment
from nanopd.request import SamplingParams, Slo
from nanopd.runtime.generation import GenerationOptions
from nanopd.simulator import simulate
from nanopd.workload import RequestSpec, named_workload, token_ids


@dataclass(frozen=True, slots=True)
class Served:
    """One request as its client saw it, and as the cluster reports it."""

    times: RequestTimes  # from the scheduled arrival
    report: RequestReport


def measure(options: dict[str, Any], budget_s: float, path: Path) -> HardwareProfile:
    """`nanopd profile`, as a process of its own: it gives the device back before the workers start."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [
        sys.executable,
        "-m",
        "nanopd",
        "profile",
        "--quick",
        "--budget",
        str(budget_s),
        "--out",
        str(path),
        *flags,
    ]
    subprocess.run(command, check=True)
    return HardwareProfile.load(path)


def make_trace(args: argparse.Namespace) -> list[RequestSpec]:
    """Poisson arrivals, short and long prompts mixed, cut to the machine; every request with the same objectives."""
    slo = Slo(args.ttft_ms, args.tpot_ms)
    specs = named_workload("mixed", "poisson", args.rate, count=args.requests, slo=slo, seed=args.seed)
    return [
        replace(
            spec,
            num_prompt_tokens=max(1, round(spec.num_prompt_tokens * args.prompt_scale)),
            num_output_tokens=args.output_tokens,
            max_tokens=args.output_tokens,
        )
        for spec in specs
    ]


async def serve(
    options: dict[str, Any],
    specs: Sequence[RequestSpec],
    seed: int,
    say: Callable[[str], None],
    tick: Callable[[], None],
) -> list[Served]:
    """Sends every request when it is due, whatever the cluster does (open loop)."""
    async with AsyncLLM(**options) as llm:
        say("the workers are ready")
        vocab_size = llm.controller.model_config.vocab_size
        prompts = [token_ids(spec, vocab_size, seed) for spec in specs]
        await llm.generate("Hello", SamplingParams(max_tokens=4))  # kernels compile and memory is touched
        say("the first answer came; the trace begins")
        start = time.perf_counter()

        async def one(spec: RequestSpec, prompt: Sequence[int]) -> Served:
            due = start + spec.arrival_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sampling = SamplingParams(max_tokens=spec.max_tokens, temperature=0.0, ignore_eos=True)
            token_times: list[float] = []
            report = None
            async for delta in llm.stream(prompt, sampling, options=GenerationOptions(slo=spec.slo)):
                token_times += [time.perf_counter()] * len(delta.token_ids)
                report = delta.report or report
            tick()
            assert report is not None
            return Served(RequestTimes(due, tuple(token_times)), report)

        return await asyncio.gather(*(one(spec, prompt) for spec, prompt in zip(specs, prompts, strict=True)))


def compare(
    served: Sequence[Served], profile: HardwareProfile, specs: Sequence[RequestSpec], workers: str
) -> dict[str, Any]:
    """The report: what the simulation said, and what came."""
    simulated = simulate(profile, workers, "adaptive", specs)
    times = [each.times for each in served]
    pairs = {
        name: (Summary.of(None if s is None else s * 1e3 for s in seconds), simulated.summaries()[f"{name}_ms"])
        for name, seconds in {
            "ttft": [t.ttft for t in times],
            "tpot": [t.tpot for t in times],
            "e2e": [t.e2e for t in times],
        }.items()
    }
    slo = specs[0].slo
    span_s = specs[-1].arrival_s - specs[0].arrival_s
    decisions = [each.report.decision for each in served]
    return {
        "latency_ms": {
            name: {"real": asdict(real), "simulated": asdict(predicted)}
            for name, (real, predicted) in pairs.items()
            if real is not None and predicted is not None
        },
        "attainment": {"real": slo_attainment(times, slo), "simulated": simulated.attainment()},
        "goodput_per_s": {"real": goodput(times, slo, max(span_s, 1e-9)), "simulated": simulated.goodput()},
        "paths": {
            "real": dict(Counter(decision.chosen.path for decision in decisions)),
            "simulated": simulated.paths(),
        },
        "policies": dict(Counter(decision.policy for decision in decisions)),
        "transfer_mb": sum(each.report.transfer_bytes for each in served) / 1e6,
        "decisions": [asdict(replace(decision, candidates=())) for decision in decisions],
    }


def show(report: dict[str, Any], console: Console, slo: Slo) -> None:
    table = Table("", "real p50", "simulated", "real p90", "simulated", "real p99", "simulated", title="Latency, ms")
    for name, row in report["latency_ms"].items():
        cells = [f"{row[which][q]:.0f}" for q in ("p50", "p90", "p99") for which in ("real", "simulated")]
        table.add_row(name.upper(), *cells)
    console.print(table)
    kept, rate = report["attainment"], report["goodput_per_s"]
    paths = {which: ", ".join(f"{n} {path}" for path, n in counts.items()) for which, counts in report["paths"].items()}
    console.print(
        f"Within {slo.ttft_ms:.0f} ms to the first token and {slo.tpot_ms:.0f} ms per token: {kept['real']:.0%} of the "
        f"requests (simulated {kept['simulated']:.0%}), goodput {rate['real']:.2f} per second"
    )
    console.print(
        f"Paths: {paths['real']} (simulated {paths['simulated']}); {report['transfer_mb']:.1f} MB of KV moved"
    )
    for why, count in Counter(decision["reason"] for decision in report["decisions"]).most_common(4):
        console.print(f"  {count:3} x {why}", markup=False)


def main() -> None:
    args = parse()
    console, begun = Console(highlight=False), time.perf_counter()

    def say(what: str) -> None:
        console.print(f"{time.perf_counter() - begun:6.1f} s  {what}", markup=False)

    options = {"model": args.model, "load_format": args.load_format, "device": args.device, "dtype": args.dtype}
    if args.num_blocks is not None:
        options["num_blocks"] = args.num_blocks
    if args.device != "cuda":
        options["num_threads"] = args.num_threads
    with TemporaryDirectory() as folder:
        path = args.profile or Path(folder) / "profile.json"
        if path.exists():
            say(f"{path} is there: nothing is measured")
            profile = HardwareProfile.load(path)
        else:
            say("measuring steps and the KV transfer")
            profile = measure(options, args.profile_s, path)
        specs = make_trace(args)
        say(f"starting {args.workers}, policy adaptive: {len(specs)} requests at {args.rate:g} per second (Poisson)")
        cluster = {"workers": args.workers, "strategy": "adaptive", "policy": "adaptive", "profile": str(path)}
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("served", total=len(specs))
            served = asyncio.run(serve(options | cluster, specs, args.seed, say, lambda: bar.advance(task)))
    say("served; simulating the same trace")
    report = compare(served, profile, specs, args.workers)
    say("done\n")
    show(report, console, specs[0].slo)
    if (sentence := caution(profile, args)) is not None:
        console.print(sentence)
    if args.out is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        whole = {"environment": msgspec.to_builtins(describe_environment()), "settings": settings, **report}
        args.out.write_text(json.dumps(whole, indent=1) + "\n")
        console.print(f"Written to {args.out}")


def caution(profile: HardwareProfile, args: argparse.Namespace) -> str | None:
    """What keeps a simulation of this machine from being right."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = Topology.parse(args.workers).num_workers
    if "NVIDIA" in profile.hardware or num_workers * args.num_threads <= num_cores:
        return None
    return f"{num_workers} workers share {num_cores} cores here: when all are busy, steps take longer than the profile of one alone says."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="embedded name, folder or .gguf file")
    parser.add_argument("--load-format", default="auto", help="dummy: random weights from a config.json alone")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--workers", default="1C+1P+1D", help="(%(default)s)")
    parser.add_argument("--num-threads", type=int, default=1, help="of each CPU worker (%(default)s)")
    parser.add_argument("--num-blocks", type=int, default=512, help="KV blocks of each worker (%(default)s)")
    parser.add_argument("--profile-s", type=float, default=10.0, help="seconds of measuring steps (%(default)s)")
    parser.add_argument("--profile", type=Path, metavar="FILE.json", help="read if there, else measured and kept")
    parser.add_argument("--requests", type=int, default=24, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=0.5, help="requests per second (%(default)s)")
    parser.add_argument("--prompt-scale", type=float, default=0.15, help="of 64 to 2048 tokens (%(default)s)")
    parser.add_argument("--output-tokens", type=int, default=16, help="of every request (%(default)s)")
    parser.add_argument("--ttft-ms", type=float, default=2000.0, help="objective (%(default)s)")
    parser.add_argument("--tpot-ms", type=float, default=200.0, help="objective (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
