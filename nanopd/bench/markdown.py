"""A record as tables to read."""

from collections.abc import Callable, Iterable, Sequence

from nanopd.bench.cell import Cell, CellStats
from nanopd.bench.record import Record
from nanopd.metrics import Summary

_Column = tuple[str, Callable[[CellStats], str]]


def to_markdown(record: Record) -> str:
    """The whole document."""
    environment = record.environment
    date = environment.date[:10]
    parts = [f"# nanopd bench {record.kind}, {date}", _facts(record)]
    if record.findings:
        parts.append("\n".join(f"- {finding}" for finding in record.findings))
    cells = [(cell, record.stats(cell)) for cell in record.cells]
    for title, columns in _TABLES:
        if table := _table(cells, columns):
            parts.append(f"## {title}\n\n{table}")
    parts.append(_how_to_read(record))
    return "\n\n".join(parts) + "\n"


def _facts(record: Record) -> str:
    environment = record.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    rows = [
        (
            "hardware",
            f"{', '.join(environment.gpus) or 'no GPU'}; {environment.cpu}, {environment.num_cpus} CPUs, {environment.memory_gib} GiB",
        ),
        ("load average before", f"{environment.load_average}"),
        ("software", f"{environment.system}; {versions}"),
        ("commit", environment.commit or "not a source tree"),
        ("command", f"`{environment.command}`"),
        ("seed", str(record.seed)),
        ("workers of each arm", str(record.num_workers)),
        *((f"arm {arm.name}", f"`{arm.description}`") for arm in record.arms),
        ("objectives", _objectives(record)),
    ]
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {_escape(value)} |" for name, value in rows)


def _objectives(record: Record) -> str:
    limits = (("TTFT", record.slo_ttft_ms), ("TPOT", record.slo_tpot_ms))
    return (
        ", ".join(f"{name} <= {limit:g} ms" for name, limit in limits if limit is not None)
        or "none, or each request's own"
    )


def _how_to_read(record: Record) -> str:
    sentences = [
        "Latencies are milliseconds of completed requests; p50 / p90 / p99.",
        "Dropped: refused, failed, or not finished when the drain was over. Tokens/s are those that came in the window, divided by the window.",
    ]
    if any(cell.rate is not None for cell in record.cells):
        sentences.append(
            "Latency counts from the scheduled arrival; 'late' is how far the client itself was behind (p99): much of it, or a client near 100 % "
            "of a core, means that the load generator was measured too."
        )
    sentences.append("Each request, with the time of every token, is in the `.json` beside this.")
    return " ".join(sentences)


def _table(cells: Sequence[tuple[Cell, CellStats]], columns: Sequence[_Column]) -> str:
    """Rows are cells, grouped by load; columns without any value are left out, and so is a table without columns."""
    ordered = sorted(cells, key=lambda pair: _first_seen(pair[0], cells))
    rendered = [(name, [show(stats) for _cell, stats in ordered]) for name, show in columns]
    shown = [(name, values) for name, values in rendered if any(values)]
    if not shown:
        return ""
    has_repeats = any(cell.repeat for cell, _stats in ordered)
    head = ["load", "arm", *(["run"] if has_repeats else []), *(name for name, _values in shown)]
    lines = [_row(head), _row(["---"] * len(head))]
    for row, (cell, _stats) in enumerate(ordered):
        run = [str(cell.repeat + 1)] if has_repeats else []
        lines.append(_row([cell.load_label, cell.arm, *run, *(values[row] or "-" for _name, values in shown)]))
    return "\n".join(lines)


def _first_seen(cell: Cell, cells: Sequence[tuple[Cell, CellStats]]) -> int:
    """Arms of the same load stand together."""
    return next(index for index, (other, _stats) in enumerate(cells) if other.key == cell.key)


def _row(values: Iterable[str]) -> str:
    return f"| {' | '.join(_escape(value) for value in values)} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _quantiles(summary: Summary | None) -> str:
    return "" if summary is None else f"{_ms(summary.p50)} / {_ms(summary.p90)} / {_ms(summary.p99)}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100.0 else f"{value:.1f}"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _phase(name: str) -> _Column:
    title = name.removesuffix("_ms").replace("_", " ").replace("ttft", "TTFT")
    return title, lambda stats: _quantiles(stats.phases.get(name))


_TABLES: tuple[tuple[str, tuple[_Column, ...]], ...] = (
    (
        "Latency",
        (
            ("requests", lambda stats: str(stats.num_requests)),
            ("dropped", lambda stats: str(stats.num_dropped)),
            ("TTFT", lambda stats: _quantiles(stats.ttft)),
            ("TPOT", lambda stats: _quantiles(stats.tpot)),
            ("ITL", lambda stats: _quantiles(stats.itl)),
            ("E2E", lambda stats: _quantiles(stats.e2e)),
        ),
    ),
    (
        "Throughput",
        (
            ("output tokens/s", lambda stats: f"{stats.output_tokens_per_s:.1f}"),
            ("per worker", lambda stats: f"{stats.output_tokens_per_s_per_worker:.1f}"),
            ("with prompt tokens", lambda stats: f"{stats.total_tokens_per_s:.1f}"),
            ("requests/s", lambda stats: f"{stats.completed_per_s:.2f}"),
            ("SLO kept", lambda stats: _optional(stats.slo_attainment, ".1%")),
            ("J/output token", lambda stats: _optional(stats.joules_per_output_token, ".2f")),
            ("goodput per worker", lambda stats: _optional(stats.goodput_per_worker, ".3f")),
            ("client CPU", lambda stats: f"{stats.client_utilisation:.0%}"),
            ("client late", lambda stats: _optional(stats.send_late_p99_ms, ".1f")),
        ),
    ),
    (
        "Where the engine says the time went",
        (
            ("paths", lambda stats: ", ".join(f"{count} {path}" for path, count in stats.paths.items())),
            *(
                _phase(name)
                for name in ("ttft_ms", "queue_ms", "prefill_ms", "transfer_ms", "transfer_exposed_ms", "decode_ms")
            ),
        ),
    ),
)
