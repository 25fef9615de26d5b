"""Sends a load. Open loop: a request goes out when it is due, whatever the engine does. Closed loop: so many are under way at any time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from nanopd.bench.client import Exchange
from nanopd.workload import RequestSpec

Send = Callable[[Exchange], Awaitable[None]]


async def open_loop(
    specs: Sequence[RequestSpec], send: Send, arrivals_s: float, drain_s: float
) -> tuple[float, list[Exchange]]:
    """Requests at their arrival times for ``arrivals_s``, then ``drain_s`` to finish; the rest is cancelled. Returns the start and the exchanges."""
    origin = time.perf_counter()
    exchanges, tasks = [], []
    for index, spec in enumerate(specs):
        exchange = Exchange(index, spec, origin + spec.arrival_s)
        await asyncio.sleep(max(0.0, exchange.due - time.perf_counter()))
        exchanges.append(exchange)
        tasks.append(asyncio.ensure_future(send(exchange)))
    await _finish(tasks, origin + arrivals_s + drain_s)
    return origin, exchanges


async def closed_loop(specs: Sequence[RequestSpec], send: Send, concurrency: int) -> tuple[float, list[Exchange]]:
    """All requests in order, ``concurrency`` of them at a time; each is due when its predecessor ended."""
    origin = time.perf_counter()
    exchanges: list[Exchange] = []
    todo: Iterator[tuple[int, RequestSpec]] = enumerate(specs)

    async def client() -> None:
        for index, spec in todo:  # shared: the next request goes to whichever client is free
            exchange = Exchange(index, spec, time.perf_counter())
            exchanges.append(exchange)
            await send(exchange)

    await asyncio.gather(*(client() for _ in range(min(concurrency, len(specs)))))
    return origin, exchanges


async def _finish(tasks: "Sequence[asyncio.Future[None]]", deadline: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, deadline - time.perf_counter()))
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):  # a cancelled one is a BaseException: it is unfinished, not wrong
            raise result
