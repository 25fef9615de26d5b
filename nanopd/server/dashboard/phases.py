"""Which stage a request is in, and which it was in when. Pure: reports in, spans out.

::

    local        | queued |    prefill    |              decode             |
    hand-off     | queued (reserving) | queued |  prefill  | transfer |  decode  |
                                                first token ^          ^ fence

``transfer`` is what overlap did not hide: from the first token until the decode worker may go on.
"""

from dataclasses import dataclass
from enum import StrEnum

from nanopd.cluster.events import RequestReport
from nanopd.cluster.snapshot import RequestSnapshot


class Stage(StrEnum):
    """Where a request stands, as a reader thinks of it."""

    QUEUED = "queued"
    PREFILL = "prefill"
    TRANSFER = "transfer"
    DECODE = "decode"
    LOST = "lost"  # work of an attempt that was given up


@dataclass(frozen=True, slots=True)
class Phase:
    """A span of a finished request, seconds since its arrival."""

    stage: Stage
    start_s: float
    end_s: float
    worker: str = ""


def stage_of(request: RequestSnapshot) -> Stage:
    """The stage of an unfinished request."""
    match request.state:
        case "local":
            return Stage.DECODE if request.num_output_tokens else Stage.PREFILL
        case "prefilling":
            # A later attempt starts with the tokens of the earlier ones: only in the first do tokens mean that the prompt is done.
            return Stage.TRANSFER if request.num_output_tokens and request.attempt == 0 else Stage.PREFILL
        case "decoding":
            return Stage.DECODE
        case _:
            return Stage.QUEUED


def phases(report: RequestReport) -> tuple[Phase, ...]:
    """The spans of a finished request: in order, without gaps, from its first plan to its end. Spans of no length are left out."""
    entries = [(at, *_split(text)) for at, text in report.timeline]
    starts = [i for i, (_, state, _) in enumerate(entries) if state in ("local", "reserving")]
    last_attempt = starts[-1] if starts else 0
    spans: list[Phase] = []
    for i, ((start, state, worker), (end, _, _)) in enumerate(zip(entries, entries[1:], strict=False)):
        if i < last_attempt and state != "queued":
            spans.append(Phase(Stage.LOST, start, end, worker))
        else:
            spans += _spans(state, worker, start, end, report)
    return tuple(span for span in spans if span.end_s > span.start_s)


def _split(text: str) -> tuple[str, str]:
    """``"local on collocated-0"`` -> ``("local", "collocated-0")``"""
    state, _, note = text.partition(" ")
    return state, note.removeprefix("on ")


def _spans(state: str, worker: str, start: float, end: float, report: RequestReport) -> list[Phase]:
    """One state of the last attempt, by stages."""
    if state == "decoding":
        return [Phase(Stage.DECODE, start, end, worker)]
    if state not in ("local", "prefilling"):
        return [Phase(Stage.QUEUED, start, end, worker)]
    began = min(end, start + report.prefill.queue_ms / 1e3)
    computed = began + report.prefill.prefill_ms / 1e3
    if report.num_attempts == 1 and report.ttft_s is not None:
        computed = report.ttft_s  # what the client saw; the worker's own clock stops a message earlier
    computed = min(end, max(began, computed)) if computed > began else end  # an unfinished prefill has no time yet
    after = Stage.DECODE if state == "local" else Stage.TRANSFER
    return [
        Phase(Stage.QUEUED, start, began, worker),
        Phase(Stage.PREFILL, began, computed, worker),
        Phase(after, computed, end, worker),
    ]
