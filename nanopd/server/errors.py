"""Errors as the OpenAI API shapes them."""

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nanopd.errors import InvalidRequestError, NanoPDError, OverloadedError, UnknownModelError, WorkerError
from nanopd.server.connection import ClientGone
from nanopd.server.parsing import BodyTooLargeError

logger = logging.getLogger("nanopd.server")

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """``{"error": {...}}``"""
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: Exception) -> int:
    """The HTTP status of one of our errors."""
    match error:
        case UnknownModelError():
            return 404
        case BodyTooLargeError():
            return 413
        case InvalidRequestError():
            return 400
        case OverloadedError():
            return 429
        case WorkerError():
            return 503
        case _:
            return 500


def error_response(error: Exception) -> Response:
    status = status_of(error)
    headers = {"Retry-After": str(max(1, round(error.retry_after_s)))} if isinstance(error, OverloadedError) else None
    param = error.field if isinstance(error, InvalidRequestError) else None
    code = "model_not_found" if isinstance(error, UnknownModelError) else None
    return JSONResponse(error_body(str(error), status, param, code), status, headers)


async def on_nanopd_error(request: Request, error: Exception) -> Response:
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """No such route, wrong method."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    return JSONResponse(error_body(message, error.status_code), error.status_code, error.headers)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; 499 is what proxies log for it."""
    return Response(status_code=499)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours: logged in full, told in one sentence."""
    logger.exception("unexpected error in %s %s", request.method, request.url.path, exc_info=error)
    return JSONResponse(error_body(f"internal error: {type(error).__name__}", 500), 500)


EXCEPTION_HANDLERS: dict[Any, Any] = {
    NanoPDError: on_nanopd_error,
    HTTPException: on_http_exception,
    ClientGone: on_client_gone,
    Exception: on_unexpected,
}
