"""``--trace FILE``: any command that runs an engine can leave a Chrome trace of it."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_trace_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace", type=Path, default=None, metavar="FILE", help="write a trace for ui.perfetto.dev when the run ends"
    )


@contextmanager
def traced(out: Path | None) -> Iterator[dict[str, Any]]:
    """Options to start the engine with. Afterwards the trace is written, and what the devices did is said on standard error."""
    if out is None:
        yield {}
        return
    from nanopd.tracing.session import trace_session

    with trace_session(out) as session:
        yield {"trace_dir": session.directory}
    for line in session.lines():
        print(line, file=sys.stderr)
    print(f"trace written: {out} (open it at https://ui.perfetto.dev)", file=sys.stderr)
