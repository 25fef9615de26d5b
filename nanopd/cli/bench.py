"""``nanopd bench``: measures over HTTP, draws, compares."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanopd.cli.bench_arms import add_arm_options, arms_of
from nanopd.cli.bench_device import add_device_kinds, add_out, record_base
from nanopd.cli.bench_files import add_file_kinds

if TYPE_CHECKING:
    from nanopd.bench.cell import Cell
    from nanopd.bench.load import Lengths, Load
    from nanopd.bench.record import Record
    from nanopd.bench.runner import Connection

_MIN_REQUESTS = 2.0  # expected in a sweep's window: fewer tell nothing about a rate
_NOT_SETTINGS = (
    "command",
    "bench_command",
    "handler",
    "out",
    "arm",
    "base_url",
    "devices",
    "serve",
    "num_workers",
    "api_key",
    "seed",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="bench_command", metavar="WHAT", required=True, title="what")
    for name, text, add, handler in (
        ("static", "short, long and mixed prompts, so many at a time", _add_static, _static),
        ("poisson", "requests that come when they come (open loop)", _add_poisson, _poisson),
        ("sweep", "rates up to saturation; resumable", _add_sweep, _sweep),
        ("trace", "replay of a file of requests", _add_trace, _trace),
        ("offline", "throughput, everything at once", _add_offline, _offline),
    ):
        kind = kinds.add_parser(name, help=text, description=text, allow_abbrev=False)
        add(kind)
        _add_common(kind, sweeps=name == "sweep")
        kind.set_defaults(handler=handler)
    add_device_kinds(kinds)
    add_file_kinds(kinds)


def run(args: argparse.Namespace) -> int:
    handler: Callable[[argparse.Namespace], int] = args.handler
    return handler(args)


def _add_static(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workloads", default="short,long,mixed", help="(%(default)s)")
    parser.add_argument("--num-requests", type=int, default=64, help="of each workload (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests under way at any time (%(default)s)")


def _add_poisson(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workloads", default="mixed", help="(%(default)s)")
    parser.add_argument(
        "--rates", default="0.1,0.2,0.3,0.5,0.7,1,1.5,2,2.5,3", help="requests per second (%(default)s)"
    )
    _add_window(parser)


def _add_window(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arrivals", default="poisson", help="poisson, bursty or diurnal (%(default)s)")
    parser.add_argument("--warmup-s", type=float, default=10.0, help="requests come, not counted (%(default)s)")
    parser.add_argument("--window-s", type=float, default=60.0, help="requests come, counted (%(default)s)")
    parser.add_argument(
        "--drain-s", type=float, default=30.0, help="no more come; what is not finished then is dropped (%(default)s)"
    )


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", default="mixed", help="(%(default)s)")
    parser.add_argument("--start-rate", type=float, default=0.5, help="requests per second (%(default)s)")
    parser.add_argument("--factor", type=float, default=2.0, help="from one rate to the next (%(default)s)")
    parser.add_argument("--max-rate", type=float, default=1000.0, help="(%(default)s)")
    parser.add_argument(
        "--num-refinements",
        type=int,
        default=2,
        help="measurements between the last rate that passed and the first that failed (%(default)s)",
    )
    parser.add_argument(
        "--attainment", type=float, default=0.9, help="share of requests that must keep the objectives (%(default)s)"
    )
    _add_window(parser)


def _add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, metavar="FILE", help=".jsonl (Mooncake's fields) or .csv (Azure's)")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many requests")
    parser.add_argument("--rate", type=float, default=None, help="stretch time to so many requests per second")
    parser.add_argument("--drain-s", type=float, default=60.0, help="after the last arrival (%(default)s)")


def _add_offline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workloads", default="mixed", help="(%(default)s)")
    parser.add_argument("--num-requests", type=int, default=256, help="(%(default)s)")
    parser.add_argument(
        "--concurrency", type=int, default=256, help="nanopd's own bound on accepted requests is 256 (%(default)s)"
    )


def _add_common(parser: argparse.ArgumentParser, sweeps: bool) -> None:
    add_arm_options(parser)
    group = parser.add_argument_group("requests")
    group.add_argument(
        "--prompt-scale",
        type=float,
        default=1.0,
        help="prompts so many times as long as the workload says (%(default)s)",
    )
    group.add_argument(
        "--output-tokens", type=int, default=None, help="every output exactly this long (default: as the workload says)"
    )
    group.add_argument(
        "--vocab-size", type=int, default=32_000, help="prompts are random token ids below it (%(default)s)"
    )
    group.add_argument("--model", default=None, help="name sent to the engines (default: the first they list)")
    group.add_argument("--api-key", default=None)
    group = parser.add_argument_group("run")
    group.add_argument("--slo-ttft-ms", type=float, default=None, help="objective: time to first token")
    group.add_argument(
        "--slo-tpot-ms", type=float, default=None, help="objective: mean time per output token after the first"
    )
    group.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    if sweeps:
        parser.set_defaults(repeats=1)
    else:
        group.add_argument("--repeats", type=int, default=1, help="of the whole, engines started anew (%(default)s)")
    group.add_argument(
        "--num-warm-up", type=int, default=4, help="requests before each measurement, not counted (%(default)s)"
    )
    add_out(group)


def _static(args: argparse.Namespace) -> int:
    from nanopd.bench.load import closed_load

    return _run_loads(
        args,
        [
            closed_load(name, args.num_requests, args.concurrency, _lengths(args), args.seed)
            for name in _words(args.workloads)
        ],
    )


def _offline(args: argparse.Namespace) -> int:
    from nanopd.bench.load import closed_load

    loads = [
        closed_load(name, args.num_requests, args.concurrency, _lengths(args), args.seed, stream=False)
        for name in _words(args.workloads)
    ]
    return _run_loads(args, loads)


def _poisson(args: argparse.Namespace) -> int:
    return _run_loads(
        args, [_open_load(args, name, rate) for name in _words(args.workloads) for rate in _numbers(args.rates)]
    )


def _trace(args: argparse.Namespace) -> int:
    from nanopd.bench.load import trace_load

    return _run_loads(args, [trace_load(args.trace, args.limit, args.rate, _lengths(args), args.seed, args.drain_s)])


def _run_loads(args: argparse.Namespace, loads: "Sequence[Load]") -> int:
    from nanopd.bench.record import check_free
    from nanopd.bench.runner import run

    base, progress = record_base(args), _progress()
    check_free(base)
    record = _empty_record(args)
    loads = [load.with_slo(record.slo) for load in loads]
    cells: list[Cell] = []
    findings: tuple[str, ...] = ()
    try:
        for cell in run(record.arms, loads, _connection(args), progress, args.repeats):
            cells.append(cell)
    except KeyboardInterrupt:
        if not cells:
            raise
        planned = len(record.arms) * len(loads) * args.repeats
        findings = (f"Interrupted: {len(cells)} of {planned} measurements were made.",)
    _finish(base, record, cells, findings)
    return 130 if findings else 0


def _sweep(args: argparse.Namespace) -> int:
    from nanopd.bench.record import check_free
    from nanopd.bench.sweep import SweepPlan
    from nanopd.bench.sweep_run import Sweep

    base = record_base(args)
    plan = SweepPlan(
        start_rate=args.start_rate,
        factor=args.factor,
        min_rate=_MIN_REQUESTS / args.window_s if args.window_s > 0.0 else 0.0,
        max_rate=args.max_rate,
        num_refinements=args.num_refinements,
        attainment=args.attainment,
    )
    check_free(base)
    state = base.with_name(base.name + ".partial.json")
    sweep = Sweep(
        plan,
        _empty_record(args),
        state,
        lambda rate: _open_load(args, args.workload, rate),
        _connection(args),
        _progress(),
    )
    sweep.resume()
    record = sweep.run()
    _finish(base, record, record.cells, record.findings)
    state.unlink(missing_ok=True)
    return 0


def _finish(base: Path, record: "Record", cells: Sequence[Any], findings: Sequence[str]) -> int:
    import msgspec
    from rich.markdown import Markdown

    from nanopd.bench.findings import cautions
    from nanopd.bench.markdown import to_markdown
    from nanopd.bench.record import write_record
    from nanopd.cli.report_table import make_console

    record = msgspec.structs.replace(record, cells=tuple(cells))
    record = msgspec.structs.replace(record, findings=(*findings, *cautions(record)))
    text = to_markdown(record)
    paths = write_record(base, record, text)
    make_console().print(Markdown(text))
    print(f"written: {', '.join(str(path) for path in paths)}")
    return 0


def _empty_record(args: argparse.Namespace) -> "Record":
    from nanopd.bench.environment import describe_environment
    from nanopd.bench.record import Record

    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in _NOT_SETTINGS
    }
    return Record(
        kind=args.bench_command,
        environment=describe_environment(),
        seed=args.seed,
        settings=settings,
        slo_ttft_ms=args.slo_ttft_ms,
        slo_tpot_ms=args.slo_tpot_ms,
        arms=tuple(arms_of(args)),
        cells=(),
    )


def _progress() -> Any:
    from nanopd.bench.progress import Progress
    from nanopd.cli.report_table import make_console

    return Progress(make_console())


def _connection(args: argparse.Namespace) -> "Connection":
    from nanopd.bench.runner import Connection

    return Connection(args.model, args.api_key, args.vocab_size, args.num_warm_up)


def _lengths(args: argparse.Namespace) -> "Lengths":
    from nanopd.bench.load import Lengths

    return Lengths(args.prompt_scale, args.output_tokens)


def _open_load(args: argparse.Namespace, workload: str, rate: float) -> "Load":
    from nanopd.bench.load import open_load

    return open_load(
        workload, args.arrivals, rate, _lengths(args), args.seed, args.warmup_s, args.window_s, args.drain_s
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[float]:
    from nanopd.errors import ConfigError

    try:
        return [float(word) for word in _words(text)]
    except ValueError:
        raise ConfigError(f"rates must be numbers separated by commas, got {text!r}") from None
