"""How a worker comes to life: as a process (for real) or as a thread of this one (tests, notebooks without processes)."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Protocol

import msgspec

from nanopd.workers.options import WorkerOptions
from nanopd.workers.process import BuildParts, build_parts, run_worker

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]  # workers import nanopd from where this process did


class WorkerHandle(Protocol):
    """One life of a worker."""

    pid: int

    def kill(self) -> None:
        """Ends it now, without a goodbye. Does nothing if it has ended."""
        ...

    async def wait(self) -> str:
        """Waits until it has ended, and tells how."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, options: WorkerOptions) -> WorkerHandle: ...


class LocalProcessLauncher:
    """A fresh Python per worker: nothing of this process is inherited but the environment, and a script needs no ``__main__`` guard."""

    async def launch(self, options: WorkerOptions) -> WorkerHandle:
        paths = [str(_PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the working directory is no place to import from
            "-m",
            "nanopd.workers.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else None,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C in the terminal goes to the controller alone
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(options))
        process.stdin.close()
        return ProcessHandle(process)


class ProcessHandle:
    """See ``WorkerHandle``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def wait(self) -> str:
        code = await self._process.wait()
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


class InProcessLauncher:
    """Workers as threads. They share the interpreter, so this is for tests and for machines where processes are not to be had."""

    def __init__(self, build: BuildParts = build_parts) -> None:
        self._build = build

    async def launch(self, options: WorkerOptions) -> WorkerHandle:
        return ThreadHandle(options, self._build)


class ThreadHandle:
    """See ``WorkerHandle``."""

    def __init__(self, options: WorkerOptions, build: BuildParts) -> None:
        self.pid = os.getpid()
        self._stop = threading.Event()
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()

        def run() -> None:
            code = run_worker(options, self._stop, build)
            with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for us
                loop.call_soon_threadsafe(self._ended.set_result, code)

        self._thread = threading.Thread(target=run, name=f"nanopd-{options.worker_id}", daemon=True)
        self._thread.start()

    def kill(self) -> None:
        self._stop.set()

    async def wait(self) -> str:
        code = await asyncio.shield(self._ended)
        self._thread.join()  # telling the loop was the last it did
        return f"exited with code {code}"


def _has_descriptor(stream: object) -> bool:
    """Whether a stream is a real file (under pytest or in a notebook it may not be)."""
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True
