"""From a folder of logs to one file."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nanopd.tracing.chrome import chrome_trace
from nanopd.tracing.device_time import DeviceUse, device_use
from nanopd.tracing.logs import read_logs


@dataclass(slots=True)
class TraceSession:
    """``directory`` is what the engine is to be started with as ``trace_dir``; ``devices`` is known when the session has ended."""

    directory: str
    devices: list[DeviceUse] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A sentence for each worker that did something."""
        return [
            f"{use.worker_id}: {use.num_steps} steps in {use.span_s:.3f} s, {use.num_prefill_tokens} prompt tokens, "
            f"{use.num_decodes} decode rows; device idle {use.idle_share:.2%} of the {use.span_s - use.without_work_s:.3f} s with work"
            for use in self.devices
            if use.num_steps
        ]


@contextmanager
def trace_session(out: Path) -> Iterator[TraceSession]:
    """Start the workers with ``session.directory`` inside, and end them inside: then ``out`` is written."""
    with tempfile.TemporaryDirectory(prefix="nanopd-trace-") as directory:
        session = TraceSession(directory)
        yield session
        workers, requests = read_logs(Path(directory))
        session.devices = [device_use(log) for log in workers]
        out.write_text(json.dumps(chrome_trace(workers, requests)))
