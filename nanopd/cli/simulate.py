"""``nanopd simulate``: a cluster in virtual time, on a measured profile of the hardware."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nanopd.config.cluster import ON_HOPELESS, POLICIES
from nanopd.cost_model import HardwareProfile, bundled, bundled_names
from nanopd.errors import ConfigError
from nanopd.request import Slo
from nanopd.workload import ARRIVALS, SHAPES, RequestSpec, named_workload, read_trace, with_rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_workload_arguments(parser)
    parser.add_argument("--workers", default="2C", help="as 1C+1P+1D: collocated, prefill, decode (default: 2C)")
    parser.add_argument(
        "--policy",
        default="adaptive",
        help=f"one of {', '.join(('collocated', 'disaggregated', 'oracle', *POLICIES))} (default: adaptive)",
    )
    parser.add_argument(
        "--on-hopeless",
        choices=ON_HOPELESS,
        default="serve",
        help="what adaptive does with requests whose objectives no plan is likely to keep",
    )
    parser.add_argument("--rate", type=float, help="requests per second (a trace's own when left out; otherwise 1)")
    parser.add_argument(
        "--decisions", type=Path, metavar="FILE", help="write every decision as JSON lines, for `nanopd explain`"
    )


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``simulate`` and ``plan`` share."""
    names = ", ".join(bundled_names())
    parser.add_argument(
        "--profile", default="h200_qwen3_8b", help=f"a file that `nanopd profile` wrote, or one of {names}"
    )
    parser.add_argument("--workload", default="sharegpt", help=f"one of {', '.join(SHAPES)}, or a trace (.jsonl, .csv)")
    parser.add_argument("--arrivals", default="poisson", choices=ARRIVALS)
    parser.add_argument("--requests", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--ttft-ms", type=float, help="objective of every request (default: the workload's)")
    parser.add_argument("--tpot-ms", type=float)
    parser.add_argument("--seed", type=int, default=0)


def load_profile(name: str) -> HardwareProfile:
    """A file or a bundled profile. Raises ConfigError."""
    return HardwareProfile.load(Path(name)) if name.endswith(".json") else bundled(name)


def load_workload(args: argparse.Namespace, rate: float | None) -> list[RequestSpec]:
    """Raises ConfigError, ValueError."""
    if args.requests < 1:
        raise ConfigError(f"--requests must be at least 1, got {args.requests}")
    slo = Slo(args.ttft_ms, args.tpot_ms) if args.ttft_ms is not None or args.tpot_ms is not None else None
    path = Path(args.workload)
    if path.suffix in (".jsonl", ".csv"):
        specs = read_trace(path, args.requests)
        return with_slo(with_rate(specs, rate) if rate is not None else specs, slo)
    if args.workload not in SHAPES:
        raise ConfigError(f"--workload must be a trace or one of {', '.join(SHAPES)}, got {args.workload!r}")
    if rate is not None and rate <= 0.0:
        raise ConfigError(f"--rate must be above 0 requests per second, got {rate}")
    return named_workload(args.workload, args.arrivals, rate or 1.0, count=args.requests, slo=slo, seed=args.seed)


def with_slo(specs: Sequence[RequestSpec], slo: Slo | None) -> list[RequestSpec]:
    from dataclasses import replace

    return [replace(spec, slo=slo) for spec in specs] if slo is not None else list(specs)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from nanopd.simulator import simulate
    from nanopd.simulator.decisions import write_decisions

    profile = load_profile(args.profile)
    specs = load_workload(args, args.rate)
    result = simulate(
        profile,
        args.workers,
        args.policy,
        specs,
        overlap_host=profile.launches_ahead,
        rejects_hopeless=args.on_hopeless == "reject",
    )
    console = Console(highlight=False)
    rate = len(specs) / max(result.arrival_span_s, 1e-9)
    console.print(
        f"{profile.hardware}, {profile.model}: {args.workers}, {args.policy}, {len(specs)} requests at {rate:.2f} per second"
    )
    for name, summary in result.summaries().items():
        if summary is not None:
            console.print(f"  {name:<22} p50 {summary.p50:9.2f}   p90 {summary.p90:9.2f}   p99 {summary.p99:9.2f}")
    paths = ", ".join(f"{path} {count}" for path, count in sorted(result.paths().items()))
    busy = ", ".join(f"{worker} {share:.0%}" for worker, share in list(result.busy.items())[:16])
    console.print(f"  paths                  {paths}\n  busy                   {busy}")
    console.print(f"  within objectives      {result.attainment():.1%}, goodput {result.goodput():.2f} per second")
    if result.num_refused:
        console.print(f"  refused                {result.num_refused}")
    if args.decisions is not None:
        write_decisions(args.decisions, result.records)
    return 0
