"""``nanopd serve`` as a process of its own, for the time of a measurement."""

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType

from nanopd.errors import WorkerError

_STOP_S = 60.0


class EngineProcess:
    """Start with ``with``: it is left when the engine has ended. Its warnings go to our stderr."""

    def __init__(self, serve_options: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "nanopd", "serve", "--port", "0", *serve_options]
        self._process: subprocess.Popen[str] | None = None
        self.base_url = ""

    def __enter__(self) -> "EngineProcess":
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = []
        try:
            for line in self._process.stdout:
                said.append(line)
                if match := re.search(r" at (http://\S+)", line):
                    self.base_url = match[1]
                    return self
            raise WorkerError(
                f"nanopd serve ended with {self._process.wait()} before it served: {''.join(said).strip()}"
            )
        except BaseException:
            self._stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        """As Ctrl-C does; by force if that takes too long."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
