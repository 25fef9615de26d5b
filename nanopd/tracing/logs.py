"""What processes note down while they run, and the files they leave. Times are seconds on the host's monotonic clock."""

from pathlib import Path

import msgspec

_SUFFIX = ".trace.json"


class TracedStep(msgspec.Struct, frozen=True):
    """One engine step: scheduled in [began, scheduled], submitted until ``submitted``, waited for in [awaited, landed], applied until ``applied``."""

    step_id: int
    began: float
    scheduled: float
    submitted: float
    awaited: float
    landed: float
    applied: float
    device_ms: float | None  # the device's own count of its time
    num_prefill_tokens: int
    num_prefills: int
    num_decodes: int
    request_ids: tuple[str, ...]


class TracedPush(msgspec.Struct, frozen=True):
    """Blocks on their way to another worker's pool."""

    push_id: str
    began: float
    ended: float
    num_blocks: int
    num_bytes: int
    transport: str
    error: str | None = None


class TracedPhase(msgspec.Struct, frozen=True):
    """A stretch of a request's life: queue, reserve, prefill, hand-off, decode."""

    name: str
    began: float
    ended: float


class TracedRequest(msgspec.Struct, frozen=True):
    """From arrival to its end; the phases follow one another."""

    request_id: str
    began: float
    ended: float
    reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    why: str  # the router's reason for its plan
    phases: tuple[TracedPhase, ...]


class WorkerLog(msgspec.Struct, frozen=True, tag=True):
    """One life of one worker. ``num_forgotten``: steps older than the recorder could hold."""

    worker_id: str
    incarnation: int
    device: str
    steps: tuple[TracedStep, ...]
    pushes: tuple[TracedPush, ...]
    num_forgotten: int = 0


class RequestLog(msgspec.Struct, frozen=True, tag=True):
    """The controller's requests."""

    requests: tuple[TracedRequest, ...]


def write_log(directory: Path, name: str, log: WorkerLog | RequestLog) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}{_SUFFIX}").write_bytes(msgspec.json.encode(log))


def read_logs(directory: Path) -> tuple[list[WorkerLog], list[TracedRequest]]:
    """All workers' logs by id and life, and all requests by arrival. A worker that was killed has left none."""
    workers: list[WorkerLog] = []
    requests: list[TracedRequest] = []
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        log = msgspec.json.decode(path.read_bytes(), type=WorkerLog | RequestLog)
        if isinstance(log, WorkerLog):
            workers.append(log)
        else:
            requests += log.requests
    return workers, sorted(requests, key=lambda request: request.began)
