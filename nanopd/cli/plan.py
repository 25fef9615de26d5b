"""``nanopd plan``: which topology and policy keeps an objective at a rate on this hardware, by simulation."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from nanopd.cli.simulate import add_workload_arguments, load_profile, load_workload
from nanopd.errors import ConfigError

MAX_WORKERS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_workload_arguments(parser)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--slo", default="", help="ttft_ms,tpot_ms; the same as --ttft-ms and --tpot-ms")
    parser.add_argument(
        "--attainment", type=float, default=0.95, help="share of requests that must keep them (default: 0.95)"
    )
    parser.add_argument("--max-workers", type=int, default=8, help=f"up to {MAX_WORKERS} (default: 8)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="attainment by number of workers, as an image (needs matplotlib)"
    )


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from nanopd.simulator import simulate

    _take_slo(args)
    if not 1 <= args.max_workers <= MAX_WORKERS:
        raise ConfigError(f"--max-workers must be between 1 and {MAX_WORKERS}, got {args.max_workers}")
    profile = load_profile(args.profile)
    specs = load_workload(args, args.rate)
    table = Table(
        "workers", "policy", "within objectives", "TTFT p90 ms", "TPOT p90 ms", "goodput /s", title="by simulation"
    )
    console = Console(highlight=False)
    found, points = None, []
    for count in _counts(args.max_workers):
        for workers, policy in _arms(count):
            result = simulate(profile, workers, policy, specs)
            summaries = result.summaries()
            p90 = [f"{s.p90:.1f}" if s is not None else "" for s in (summaries["ttft_ms"], summaries["tpot_ms"])]
            attained = result.attainment()
            mark = " *" if attained >= args.attainment else ""
            table.add_row(workers, policy, f"{attained:.1%}{mark}", *p90, f"{result.goodput():.2f}")
            points.append((count, policy, attained))
            if mark and (found is None or (count, -attained) < (found[0], -found[3])):
                found = (count, workers, policy, attained)
        if found is not None:
            break
    console.print(table)
    if found is None:
        console.print(
            f"nothing up to {args.max_workers} workers keeps the objectives of {args.attainment:.0%} of the requests"
        )
    else:
        console.print(
            f"{found[1]} with policy {found[2]}: {found[3]:.1%} within objectives at {args.rate} requests per second"
        )
    if args.plot is not None:
        _plot(points, args.plot)
    return 0 if found is not None else 1


def _take_slo(args: argparse.Namespace) -> None:
    if not args.slo:
        return
    try:
        args.ttft_ms, args.tpot_ms = (float(word) for word in args.slo.split(","))
    except ValueError:
        raise ConfigError(f"--slo must be ttft_ms,tpot_ms such as 500,30, got {args.slo!r}") from None


def _counts(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: half and one third more each time."""
    count = 1
    while count < most:
        yield count
        count = count + 1 if count < 4 else count * 3 // 2 if count & (count - 1) == 0 else count * 4 // 3
    yield most


def _arms(count: int) -> Iterator[tuple[str, str]]:
    yield f"{count}C", "collocated"
    shares = sorted({max(1, count // 4), count // 2, count - max(1, count // 4)} - {0, count})
    for num_prefill in shares:
        yield f"{num_prefill}P+{count - num_prefill}D", "disaggregated"
    if count > 1:
        yield f"{count}C", "adaptive"


def _plot(points: list[tuple[int, str, float]], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'nanopd[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots()
    for policy in dict.fromkeys(policy for _, policy, _ in points):
        best: dict[int, float] = {}
        for count, name, attained in points:
            if name == policy:
                best[count] = max(best.get(count, 0.0), attained)
        axis.plot(list(best), [100 * value for value in best.values()], marker="o", label=policy)
    axis.set_xlabel("workers")
    axis.set_ylabel("requests within objectives, %")
    axis.legend()
    figure.savefig(path, dpi=110)
