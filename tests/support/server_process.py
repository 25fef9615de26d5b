"""``nanopd serve`` as a user starts it: a process of its own, found by the address it prints."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[2]
START_S = 120.0


class ServerProcess:
    """Start with ``with``; leaving ends it as SIGTERM does. ``children`` are its workers."""

    def __init__(self, *options: str) -> None:
        self._command = [sys.executable, "-m", "nanopd", "serve", "--port", "0", *options]
        self.url = ""
        self.process: subprocess.Popen[str]

    def __enter__(self) -> "ServerProcess":
        paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if match := re.search(r"at (http://\S+)", line):
                self.url = match[1]
                return self
        raise AssertionError(f"the server ended with {self.process.wait()}: {''.join(lines)}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.terminate()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def terminate(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Sends a signal, waits, returns the exit code."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.read()
        return self.process.wait(timeout_s)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.loads(response.read())

    def free_blocks(self) -> dict[str, int]:
        """Blocks no sequence owns, by worker, once nothing is in flight."""
        return {worker["worker_id"]: worker["stats"]["num_free_blocks"] for worker in self.get("/health")["workers"]}

    def wait_until(self, condition: Any, what: str, timeout_s: float = 30.0) -> None:
        """Polls, because workers tell their state by heartbeat."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:.0f} s"
            time.sleep(0.05)
