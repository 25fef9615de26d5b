"""``nanopd top``: the dashboard of a running server, in a terminal. Needs nothing of the engine: it reads the same feed."""

import argparse
import os
import time
from typing import TYPE_CHECKING

from nanopd.errors import NanoPDError

if TYPE_CHECKING:
    from nanopd.server.dashboard.frame import Frame

DEFAULT_URL = "http://127.0.0.1:8000"


class ServerUnreachableError(NanoPDError):
    """The server does not answer, or not as a nanopd server does."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help="of the server (%(default)s)")
    parser.add_argument(
        "--api-key", default=os.environ.get("NANOPD_API_KEY"), help="the server's (default: $NANOPD_API_KEY)"
    )
    parser.add_argument("--interval-s", type=float, default=1.0, help="between two looks (%(default)s)")
    parser.add_argument("--once", action="store_true", help="print the state once and end")


def run(args: argparse.Namespace) -> int:
    from rich.live import Live

    from nanopd.cli.report_table import make_console
    from nanopd.cli.top_view import render

    console = make_console()
    frame = read_frame(args.url, args.api_key)
    if args.once:
        console.print(render(frame, console.width))
        return 0
    with Live(render(frame, console.width), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(max(0.1, args.interval_s))
            live.update(render(read_frame(args.url, args.api_key), console.width), refresh=True)


def read_frame(url: str, api_key: str | None) -> "Frame":
    """The state of the server at ``url``. Raises ServerUnreachableError."""
    import urllib.error
    import urllib.request

    import msgspec

    from nanopd.server.dashboard.frame import Frame

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(url.rstrip("/") + "/dashboard/state", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return msgspec.json.decode(response.read(), type=Frame)
    except urllib.error.HTTPError as error:
        hint = "it wants its API key (--api-key)" if error.code == 401 else f"it answered {error.code}"
        raise ServerUnreachableError(f"cannot read {url}: {hint}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServerUnreachableError(f"cannot read {url}: {reason}") from error
