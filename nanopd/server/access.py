"""The API key."""

import secrets

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nanopd.server.errors import error_body

# Health, metrics and the dashboard's files stay readable; what runs and why is for those who have the key.
_PROTECTED = ("/v1/", "/tokenize", "/detokenize", "/dashboard/state", "/dashboard/events", "/debug/")


class RequireApiKey:
    """ASGI middleware: ``Authorization: Bearer <key>`` on every path that reaches the model or tells about its requests."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PROTECTED) or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        message = "the Authorization header must be 'Bearer <API key>' with this server's key"
        response = JSONResponse(error_body(message, 401, code="invalid_api_key"), 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(given, self._expected)
