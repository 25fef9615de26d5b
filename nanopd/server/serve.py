"""The life of ``nanopd serve``: bind, start workers, serve, drain, stop.

::

    first SIGTERM or Ctrl-C   no new connections; requests under way finish, at most ``drain_timeout_s``
    second                    they are aborted
    either way                workers end, nothing is left behind
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn

from nanopd.config import ClusterConfig, EngineConfig, ServerConfig
from nanopd.errors import ConfigError
from nanopd.runtime.controller import Controller
from nanopd.server.app import build_app
from nanopd.tokenizer import load_tokenizer


def serve(
    engine: EngineConfig, cluster: ClusterConfig, config: ServerConfig, say: Callable[[str], None] = print
) -> None:
    """Serves until told to stop. Raises ConfigError (port in use, no such model) and WorkerError (a worker cannot start)."""
    asyncio.run(_serve(engine, cluster, config, say))


async def _serve(
    engine: EngineConfig, cluster: ClusterConfig, config: ServerConfig, say: Callable[[str], None]
) -> None:
    stop = _StopSignals()
    listener = _listen(
        config.host, config.port
    )  # before anything slow: a port in use is told at once, early clients wait
    try:
        tokenizer = load_tokenizer(engine)
        controller = Controller(engine, cluster)
        spans = _export_spans(controller, config, engine.model)
        say(f"starting {cluster.topology} workers for {engine.model} ...")
        try:
            if not await stop.unless_stopped(controller.start()):
                return
            app = build_app(controller, tokenizer, config, engine.model)
            server = _Server(
                uvicorn.Config(
                    app, lifespan="off", log_level="warning", timeout_graceful_shutdown=_hard_limit_s(config)
                )
            )
            draining = asyncio.create_task(
                _drain(stop, server, controller, config.drain_timeout_s, app.state.dashboard.close)
            )
            host, port = listener.getsockname()[:2]
            say(
                f"nanopd serves {config.served_model_name or engine.model} at http://{host}:{port} ({cluster.topology}, {cluster.strategy})"
            )
            await server.serve(sockets=[listener])
            draining.cancel()
            say("stopping workers ...")
        finally:
            await controller.stop()
            if spans is not None:
                await asyncio.to_thread(spans.shutdown)  # sends what it still holds
    finally:
        listener.close()


def _export_spans(controller: Controller, config: ServerConfig, model: str) -> Any:
    """The provider of spans, or None: without an endpoint OpenTelemetry is not even imported."""
    if config.otlp_endpoint is None:
        return None
    from nanopd.server.request_spans import export_spans

    return export_spans(controller, config.otlp_endpoint, config.served_model_name or model)


async def _drain(
    stop: "_StopSignals", server: uvicorn.Server, controller: Controller, timeout_s: float, close: Callable[[], None]
) -> None:
    """From the first signal on: no new connections; what still runs at the second, or after ``timeout_s``, is aborted and answered so."""
    await stop.first.wait()
    server.should_exit = True
    close()  # streams without an end
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.second.wait(), timeout_s)
    for request in controller.snapshot().requests:
        controller.abort(request.request_id)


def _hard_limit_s(config: ServerConfig) -> int:
    """When connections are cut whatever they do: after the drain, for clients that don't read their answers."""
    return config.drain_timeout_s + 5


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it (asyncio sets it only on sockets it made itself). Without it the first token on a connection that is used again
    # waits 40 ms for the acknowledgement of the response's head: Nagle's algorithm against delayed acknowledgements.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: ours covers the workers' start and end too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _StopSignals:
    """SIGTERM and SIGINT, from now until the loop ends."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    async def unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Waits for ``work``, or cancels it on the first signal and returns False."""
        task = asyncio.create_task(work)
        waiter = asyncio.create_task(self.first.wait())
        try:
            await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            task.cancel()
            waiter.cancel()
            await asyncio.gather(task, waiter, return_exceptions=True)
