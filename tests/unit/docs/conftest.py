"""A place to type the docs' commands in: it looks like a checkout with its environment, and what they write stays there."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.doc_blocks import REPOSITORY
from support.server_process import ServerProcess

_SEEN = (
    "benchmarks",
    "docs",
    "examples",
    "nanopd",
    "tests",
    "constraints.txt",
    "Makefile",
    "README.md",
    "pyproject.toml",
)
Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in _SEEN:
        (folder / name).symlink_to(REPOSITORY / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, command in (("nanopd", f"{sys.executable} -m nanopd"), ("python", sys.executable)):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture(scope="module")
def shell(checkout: Path) -> Shell:
    """Runs a command there and returns when it has ended."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(checkout / ".venv" / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, timeout=500
        )

    return run


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with ServerProcess("--workers", "1C+1P+1D", "--num-blocks", "256") as server:
        yield server.url
