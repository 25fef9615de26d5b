"""The HTTP application: routes, errors, access. Tests drive it over a controller of their own."""

import time
from importlib import metadata
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from nanopd.config import ServerConfig
from nanopd.runtime.generation import Generator
from nanopd.server.access import RequireApiKey
from nanopd.server.admin import AdminEndpoints
from nanopd.server.chat import ChatEndpoint
from nanopd.server.completions import CompletionsEndpoint
from nanopd.server.context import ServerContext
from nanopd.server.dashboard import DashboardEndpoints, DashboardFeed
from nanopd.server.errors import EXCEPTION_HANDLERS
from nanopd.server.prometheus import ServerMetrics
from nanopd.server.request_log import RequestLog
from nanopd.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nanopd.runtime.controller import Controller


def build_app(controller: "Controller", tokenizer: Tokenizer, config: ServerConfig, model: str) -> Starlette:
    """An ASGI app over a started controller; ``model`` is the name clients use unless the config says otherwise."""
    context = ServerContext(
        Generator(controller, tokenizer), config, config.served_model_name or model, int(time.time())
    )
    feed = DashboardFeed(controller, context.model_name, _version())
    admin = AdminEndpoints(context, ServerMetrics(controller), _version())
    routes = [
        Route("/v1/completions", CompletionsEndpoint(context).post, methods=["POST"]),
        Route("/v1/chat/completions", ChatEndpoint(context).post, methods=["POST"]),
        Route("/v1/models", admin.models),
        Route("/v1/models/{name:path}", admin.model),
        Route("/health", admin.health),
        Route("/metrics", admin.metrics),
        Route("/version", admin.version),
        Route("/tokenize", admin.tokenize, methods=["POST"]),
        Route("/tokenizer_info", admin.tokenizer_info),
        Route("/debug/requests/{request_id}", RequestLog(controller).show),
        Route("/detokenize", admin.detokenize, methods=["POST"]),
        *DashboardEndpoints(feed).routes(),
    ]
    access = [Middleware(RequireApiKey, api_key=config.api_key)] if config.api_key else []
    app = Starlette(routes=routes, middleware=access, exception_handlers=EXCEPTION_HANDLERS)
    app.state.dashboard = feed  # whoever serves the app closes it on shutdown
    return app


def _version() -> str:
    """Of the installed package; a source tree on PYTHONPATH has none."""
    try:
        return metadata.version("nanopd")
    except metadata.PackageNotFoundError:
        return "source tree"
