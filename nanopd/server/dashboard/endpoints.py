"""The routes of the dashboard: its files, the snapshot, the stream."""

from collections.abc import AsyncGenerator
from importlib import resources

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nanopd.errors import InvalidRequestError
from nanopd.server.connection import EventStream
from nanopd.server.dashboard.feed import DashboardFeed

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    # The page loads nothing from elsewhere and runs no inline code: text from requests can never become script.
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class DashboardEndpoints:
    """Files are read once, at the start."""

    def __init__(self, feed: DashboardFeed) -> None:
        self._feed = feed
        files = resources.files("nanopd.server.dashboard") / "static"
        self._files = {file.name: file.read_bytes() for file in files.iterdir() if file.is_file()}

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/dashboard/state", self.state),
            Route("/dashboard/events", self.events),
            Route("/dashboard/{name}", self.file),
        ]

    async def page(self, http: Request) -> Response:
        return self._send("index.html")

    async def file(self, http: Request) -> Response:
        return self._send(http.path_params["name"])

    async def state(self, http: Request) -> Response:
        return Response(
            self._feed.frame(_after(http)), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    async def events(self, http: Request) -> Response:
        events: AsyncGenerator[bytes, None] = self._feed.events(_after(http))
        return EventStream(await anext(events, b""), events, {})

    def _send(self, name: str) -> Response:
        kind = _TYPES.get(name.rpartition(".")[2])
        if name not in self._files or kind is None:
            raise HTTPException(404, "no such file")
        return Response(self._files[name], media_type=kind, headers=_HEADERS)


def _after(http: Request) -> int:
    """``?after=N``: the last finished request the reader has seen."""
    text = http.query_params.get("after", "0")
    if not text.isdecimal():
        raise InvalidRequestError(f"after must be a whole number, got {text!r}", "after")
    return int(text)
