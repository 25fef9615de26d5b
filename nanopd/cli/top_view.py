"""A frame of the dashboard's feed as text."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nanopd.cluster.snapshot import WorkerSnapshot
from nanopd.metrics import percentile
from nanopd.router.plan import Decision
from nanopd.server.dashboard.frame import FinishedRequest, Frame, Live, LiveRequest
from nanopd.server.dashboard.phases import Phase, Stage

COLOURS = {
    Stage.QUEUED: "bright_black",
    Stage.PREFILL: "blue",
    Stage.TRANSFER: "yellow",
    Stage.DECODE: "green",
    Stage.LOST: "red",
}
_MAX_ROWS = 12  # of each list
_BAR_WIDTH = 24
_ENDED_NUMBERS = ("in", "out", "TTFT", "took", "expected")
_ENDED_WIDTH = 106  # of that table, the reasons left out
_BLOCKS = " ▁▂▃▄▅▆▇█"


def render(frame: Frame, width: int) -> RenderableType:
    """Workers, what runs, what has ended; ``width`` in characters."""
    live = frame.live
    server = live.server
    strategy = f"adaptive (policy {server.policy})" if server.strategy == "adaptive" else server.strategy
    title = Text(f"nanopd  {server.model}  {server.topology}  {strategy}", style="bold")
    parts: list[RenderableType] = [title, _headline(frame), _stages(live), _rate(live, width), _workers(live.workers)]
    if live.requests:
        parts.append(_running(live.requests))
    if frame.finished:
        parts.append(_ended(frame.finished, width - _ENDED_WIDTH))
    return Group(*parts)


def _headline(frame: Frame) -> Text:
    reports = [request.report for request in frame.finished[-50:] if request.report is not None]
    ttft = _median(report.ttft_s for report in reports)
    tpot = _median(report.tpot_s for report in reports)
    counters = frame.live.counters
    moved = f"{counters.handoffs} hand-offs, {counters.transfer_bytes / 2**20:.1f} MiB"
    return Text(f"{counters.requests} requests   TTFT p50 {_ms(ttft)}   TPOT p50 {_ms(tpot)}   {moved}")


def _stages(live: Live) -> Text:
    """How many requests stand where."""
    shown = (
        Text(f"{stage} {live.stages.get(stage, 0)}", style=COLOURS[stage]) for stage in Stage if stage in live.stages
    )
    return Text("  ->  ").join(shown)


def _rate(live: Live, width: int) -> Text:
    """Output tokens per second, the latest on the right."""
    rates = live.tokens_per_s[-max(10, min(60, width - 20)) :]
    top = max([*rates, 1])
    line = "".join(_BLOCKS[-(-rate * (len(_BLOCKS) - 1) // top)] for rate in rates)
    return Text.assemble((line, COLOURS[Stage.DECODE]), f"  {rates[-1] if rates else 0} tokens/s")


def _workers(workers: Sequence[WorkerSnapshot]) -> Table:
    table = _table("worker", "state", numbers=("running", "waiting", "reserved", "KV blocks", "step", "prefix hits"))
    for worker in workers:
        stats = worker.stats
        used = worker.num_blocks - stats.num_free_blocks
        hits = f"{stats.prefix_hit_tokens / stats.prefix_query_tokens:.0%}" if stats.prefix_query_tokens else "-"
        state = Text("ready") if worker.ready else Text("not ready", style="red")
        figures = (stats.num_running, stats.num_waiting, stats.num_reserved)
        step = f"{stats.step_ms:.1f} ms" if stats.num_steps else "-"
        table.add_row(worker.worker_id, state, *map(str, figures), f"{used} / {worker.num_blocks}", step, hits)
    return table


def _running(requests: Sequence[LiveRequest]) -> Table:
    table = _table("running", "stage", "way", numbers=("in", "out", "age"))
    for request in requests[:_MAX_ROWS]:
        stage = Text(request.stage.value, style=COLOURS[request.stage])
        sizes = (str(request.num_prompt_tokens), str(request.num_output_tokens), _ms(request.age_s))
        table.add_row(_short(request.request_id), stage, _way(request.decision), *sizes)
    return table


def _ended(finished: Sequence[FinishedRequest], room: int) -> Table:
    """``room``: characters there are for the reasons; too few, and they are left out."""
    has_reasons = room >= 20
    table = _table("ended", "way", "time", *(("why",) if has_reasons else ()), numbers=_ENDED_NUMBERS)
    shown = [request for request in reversed(finished) if request.report is not None][:_MAX_ROWS]
    longest = max((request.report.e2e_s for request in shown if request.report is not None), default=1.0)
    for request in shown:
        report = request.report
        assert report is not None
        expected = report.decision.chosen.total_ms
        times = (_ms(report.ttft_s), _ms(report.e2e_s), _ms(expected / 1e3 if expected else None))
        sizes = (str(report.num_prompt_tokens), str(report.num_output_tokens))
        why = Text(request.error or report.decision.reason)
        why.truncate(room, overflow="ellipsis")
        words = (why,) if has_reasons else ()
        bar = _bar(request.phases, longest)
        table.add_row(_short(request.request_id), _way(report.decision), bar, *words, *sizes, *times)
    return table


def _bar(phases: Sequence[Phase], scale_s: float) -> Text:
    """Where the time went; every stage that took any is seen."""
    bar = Text()
    for phase in phases:
        cells = round((phase.end_s - phase.start_s) / max(scale_s, 1e-9) * _BAR_WIDTH)
        bar.append("━" * max(1, cells), style=COLOURS[phase.stage])
    bar.truncate(_BAR_WIDTH)
    return bar


def _table(*texts: str, numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for text in texts:
        table.add_column(text, no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _way(decision: Decision) -> str:
    chosen = decision.chosen
    if chosen.path == "collocated":
        return chosen.decode_worker or "not planned yet"
    return f"{chosen.prefill_worker} > {chosen.decode_worker}"


def _short(request_id: str) -> str:
    """As the dashboard abbreviates."""
    return request_id.removeprefix("chatcmpl-").removeprefix("cmpl-")[:4]


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return percentile(present, 50) if present else None


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"
