"""Where a measurement was made: hardware, versions, commit, command."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

from nanopd import __version__

_PACKAGES = ("torch", "numpy", "httpx", "uvicorn")


class Environment(msgspec.Struct, frozen=True):
    """Facts that a reader needs to judge a figure."""

    date: str
    command: str
    commit: str
    cpu: str
    num_cpus: int
    memory_gib: float
    gpus: tuple[str, ...]
    load_average: float  # of the machine over the minute before: above 0 on an idle machine's scale means neighbours
    system: str
    versions: dict[str, str]


def describe_environment() -> Environment:
    """Of this machine, now; an engine at a URL may run on another."""
    return Environment(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join([*_program(), *sys.argv[1:]]),
        commit=_commit(),
        cpu=_cpu(),
        num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        gpus=_gpus(),
        load_average=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions={"nanopd": __version__} | {name: version for name in _PACKAGES if (version := _version(name))},
    )


def _program() -> list[str]:
    """How the running program is called: ``nanopd``, ``python -m MODULE`` or ``python FILE``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return ["nanopd"] if Path(sys.argv[0]).stem == "nanopd" else ["python", sys.argv[0]]
    module = spec.name.removesuffix(".__main__")
    return ["nanopd"] if module == "nanopd" else ["python", "-m", module]


def _commit() -> str:
    """Of the source tree this program runs from, marked where it has changes; empty for an installed package."""
    root = Path(__file__).parents[2]
    commit = _output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    return (
        f"{commit} with changes"
        if commit and _output("git", "-C", str(root), "status", "--porcelain", "--", "nanopd")
        else commit
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    answer = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in answer.splitlines())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
