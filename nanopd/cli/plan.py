"""``nanopd plan``: which topology and policy keeps an objective at a rate on this hardware, by simulation.

A cluster of more than ``LARGEST`` workers is judged by a part of it: a whole fraction of its workers at the same fraction of the rate. The whole
smooths bursts a little better than its part, so this errs on the safe side.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from nanopd.cli.simulate import add_workload_arguments, load_profile, load_workload
from nanopd.errors import ConfigError

MAX_WORKERS = 1024
LARGEST = 16  # workers that are simulated one by one
_MIN_SPAN_S = 10.0  # over which requests come, so that more than the filling of an empty cluster is seen


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

    from nanopd.simulator import capacity, simulate

    _take_slo(args)
    if not 1 <= args.max_workers <= MAX_WORKERS:
        raise ConfigError(f"--max-workers must be between 1 and {MAX_WORKERS}, got {args.max_workers}")
    profile = load_profile(args.profile)
    capacity_of_one, num_requests = capacity(profile, load_workload(args, args.rate), 1), args.requests
    table = Table(
        "workers", "policy", "within objectives", "TTFT p90 ms", "TPOT p90 ms", "goodput /s", title="by simulation"
    )
    console = Console(highlight=False)
    found, points = None, []
    for count in _counts(args.max_workers, int(args.rate / capacity_of_one / 2)):
        share = -(-count // LARGEST)  # simulated: one worker of so many
        args.requests = max(num_requests, round(_MIN_SPAN_S * args.rate / share))
        specs = load_workload(args, args.rate / share)
        for num_prefill, policy in _arms(count // share):
            topology = _topology(num_prefill, count // share)
            result = simulate(profile, topology, policy, specs, overlap_host=profile.launches_ahead)
            workers = _topology(num_prefill * share, count // share * share)
            summaries = result.summaries()
            p90 = [f"{s.p90:.1f}" if s is not None else "" for s in (summaries["ttft_ms"], summaries["tpot_ms"])]
            attained = result.attainment()
            mark = " *" if attained >= args.attainment else ""
            table.add_row(workers, policy, f"{attained:.1%}{mark}", *p90, f"{result.goodput() * share:.2f}")
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


def _counts(most: int, least: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: half and one third more each time; those below ``least`` could not bear the load."""
    count = 1
    while count < most:
        if count >= least:
            yield count
        count = count + 1 if count < 4 else count * 3 // 2 if count & (count - 1) == 0 else count * 4 // 3
    yield most


def _arms(count: int) -> Iterator[tuple[int, str]]:
    """Prefill workers among ``count`` (0: all are collocated), and a policy."""
    yield 0, "collocated"
    for num_prefill in sorted({max(1, count // 4), count // 2, count - max(1, count // 4)} - {0, count}):
        yield num_prefill, "disaggregated"
    if count > 1:
        yield 0, "adaptive"


def _topology(num_prefill: int, count: int) -> str:
    return f"{num_prefill}P+{count - num_prefill}D" if num_prefill else f"{count}C"


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
