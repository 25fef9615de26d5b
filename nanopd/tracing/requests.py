"""The controller's log: every request that ended, cut into phases."""

from collections import deque
from itertools import pairwise
from pathlib import Path

from nanopd.cluster.events import FinishRequest, RequestReport
from nanopd.request import Request
from nanopd.tracing.logs import RequestLog, TracedPhase, TracedRequest, write_log

MAX_REQUESTS = 100_000


class RequestRecorder:
    """Listens to ``Controller.on_finish``."""

    def __init__(self, max_requests: int = MAX_REQUESTS) -> None:
        self._requests: deque[TracedRequest] = deque(maxlen=max_requests)

    def finished(self, finish: FinishRequest, request: Request) -> None:
        report = finish.report
        if report is None:
            return
        began = request.arrival_time
        traced = TracedRequest(
            finish.request_id,
            began,
            began + report.e2e_s,
            finish.reason.value,
            report.num_prompt_tokens,
            report.num_output_tokens,
            report.decision.reason,
            phases(report, began),
        )
        self._requests.append(traced)

    def write(self, directory: str) -> None:
        write_log(Path(directory), "requests", RequestLog(tuple(self._requests)))


def phases(report: RequestReport, arrived: float) -> tuple[TracedPhase, ...]:
    """The states a request went through, those of a worker's leg cut where its queue ended and where the first token came."""
    marks = [*report.timeline, (report.e2e_s, "finished")]
    found: list[TracedPhase] = []
    for (start, text), (end, _) in pairwise(marks):
        state = text.split()[0]
        queued = min(end, start + report.prefill.queue_ms / 1e3)
        first = end if report.ttft_s is None else min(end, max(queued, report.ttft_s))
        match state:
            case "local":
                cuts = [("queue", start, queued), ("prefill", queued, first), ("decode", first, end)]
            case "prefilling":
                cuts = [("queue", start, queued), ("prefill", queued, first), ("hand-off", first, end)]
            case _:
                names = {"queued": "queue", "reserving": "reserve", "decoding": "decode"}
                cuts = [(names.get(state, state), start, end)]
        found += [TracedPhase(name, arrived + begin, arrived + stop) for name, begin, stop in cuts if stop > begin]
    return tuple(found)
