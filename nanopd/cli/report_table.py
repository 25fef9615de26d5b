"""The per-request table: where each request ran, why, and where its time went."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nanopd.cluster.events import RequestReport

_PLAIN_WIDTH = 150  # of a log file, where there is no terminal to ask
_ONE_TABLE_WIDTH = 140


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One finished request."""

    label: str
    report: RequestReport
    finish_reason: str


def make_console() -> Console:
    """A console that is wide enough for the table also when the output goes to a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def report_table(rows: Sequence[ReportRow], width: int = _PLAIN_WIDTH) -> RenderableType:
    """What happened to each request, in order: one table, or two where ``width`` characters are too few for one."""
    times = ("queue", "prefill", "transfer", "decode", "TTFT", "TPOT")
    if width >= _ONE_TABLE_WIDTH:
        table = _table("Where the time went (ms)", ("request", "path", "why"), ("in", "out", *times))
        for row in rows:
            table.add_row(*_cells(row.label, *_way(row.report), *_sizes(row.report), *_times(row.report)))
        return table
    way = _table("Which way, and why", ("request", "path", "why"), ())
    spent = _table("Where the time went (ms)", ("request",), ("in", "out", *times))
    for row in rows:
        way.add_row(*_cells(row.label, *_way(row.report)))
        spent.add_row(*_cells(row.label, *_sizes(row.report), *_times(row.report)))
    return Group(way, spent)


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in texts:
        match name:
            case "request":
                table.add_column(name, max_width=24, no_wrap=True, overflow="ellipsis")
            case "why":
                table.add_column(name, ratio=1, min_width=20)
            case _:
                table.add_column(name, min_width=20)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(*texts: str) -> tuple[str, ...]:
    """Prompts and reasons are plain text, whatever brackets they hold."""
    return tuple(escape(text) for text in texts)


def _way(report: RequestReport) -> tuple[str, str]:
    chosen = report.decision.chosen
    workers = f"{chosen.prefill_worker} > {chosen.decode_worker}" if _is_moved(report) else chosen.decode_worker
    retries = f" ({report.num_attempts} attempts)" if report.num_attempts > 1 else ""
    return workers + retries, report.decision.reason


def _sizes(report: RequestReport) -> tuple[str, str]:
    return str(report.num_prompt_tokens), str(report.num_output_tokens)


def _times(report: RequestReport) -> tuple[str, ...]:
    is_moved = _is_moved(report)
    decode = report.decode if is_moved else report.prefill  # a collocated request has one leg
    queue_ms = report.prefill.queue_ms + (report.decode.queue_ms if is_moved else 0.0)
    transfer = f"{report.transfer_ms:.1f}" if is_moved else "-"
    milliseconds = (f"{queue_ms:.0f}", f"{report.prefill.prefill_ms:.0f}", transfer, f"{decode.decode_ms:.0f}")
    return *milliseconds, _ms(report.ttft_s), _ms(report.tpot_s)


def _is_moved(report: RequestReport) -> bool:
    return report.decision.chosen.path == "disaggregated"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f}"


def summary_line(rows: Sequence[ReportRow], elapsed_s: float) -> str:
    """The run in one sentence."""
    num_tokens = sum(row.report.num_output_tokens for row in rows)
    paths = [row.report.decision.chosen.path for row in rows]
    by_path = ", ".join(f"{paths.count(path)} {path}" for path in sorted(set(paths)))
    num_bytes = sum(row.report.transfer_bytes for row in rows)
    moved = f"; {num_bytes / 2**20:.1f} MiB of KV handed over" if num_bytes else ""
    return f"{len(rows)} requests ({by_path}), {num_tokens} tokens in {elapsed_s:.1f} s = {num_tokens / elapsed_s:.0f} tokens/s{moved}"
