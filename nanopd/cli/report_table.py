"""The per-request table: where each request ran, why, and where its time went."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nanopd.cluster.events import RequestReport

_PLAIN_WIDTH = 150  # of a log file, where there is no terminal to ask


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


def report_table(rows: Sequence[ReportRow], title: str = "Where the time went (ms)") -> Table:
    """One line per request, in order."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("request", max_width=26, no_wrap=True, overflow="ellipsis")
    table.add_column("path", no_wrap=True)
    table.add_column("why", ratio=1, min_width=24)
    for name in ("in", "out", "queue", "prefill", "transfer", "decode", "TTFT", "TPOT"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell) for cell in (row.label, *_cells(row.report))))
    return table


def _cells(report: RequestReport) -> tuple[str, ...]:
    chosen = report.decision.chosen
    is_moved = chosen.path == "disaggregated"
    decode = report.decode if is_moved else report.prefill  # a collocated request has one leg
    queue_ms = report.prefill.queue_ms + (report.decode.queue_ms if is_moved else 0.0)
    retries = f" ({report.num_attempts} attempts)" if report.num_attempts > 1 else ""
    return (
        (f"{chosen.prefill_worker} > {chosen.decode_worker}" if is_moved else chosen.decode_worker) + retries,
        report.decision.reason,
        str(report.num_prompt_tokens),
        str(report.num_output_tokens),
        f"{queue_ms:.0f}",
        f"{report.prefill.prefill_ms:.0f}",
        f"{report.transfer_ms:.1f}" if is_moved else "-",
        f"{decode.decode_ms:.0f}",
        _ms(report.ttft_s),
        _ms(report.tpot_s),
    )


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
