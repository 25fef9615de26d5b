"""Both loops with a stand-in for the engine; nothing here depends on how long things take."""

import asyncio

import pytest

from nanopd.bench.client import Exchange
from nanopd.bench.drive import closed_loop, open_loop
from nanopd.bench.sample import Outcome
from nanopd.workload import RequestSpec


def specs(*arrivals: float) -> list[RequestSpec]:
    return [RequestSpec(arrival, 1, 1, 1) for arrival in arrivals]


def test_open_loop_sends_whatever_the_engine_does_and_cancels_the_rest() -> None:
    sent: list[int] = []

    async def never_answers(exchange: Exchange) -> None:
        sent.append(exchange.index)
        await asyncio.Event().wait()

    origin, exchanges = asyncio.run(open_loop(specs(0.0, 0.01, 0.02), never_answers, 0.02, 0.0))
    assert sent == [0, 1, 2]
    assert [round(exchange.due - origin, 6) for exchange in exchanges] == [0.0, 0.01, 0.02]
    assert all(exchange.sample(origin).outcome is Outcome.UNFINISHED for exchange in exchanges)


def test_open_loop_does_not_wait_for_the_drain_when_all_have_ended() -> None:
    async def at_once(exchange: Exchange) -> None:
        exchange.outcome = Outcome.COMPLETED

    async def run() -> None:
        async with asyncio.timeout(60.0):
            await open_loop(specs(0.0), at_once, 0.0, 3600.0)

    asyncio.run(run())


def test_open_loop_hides_no_bug() -> None:
    async def broken(exchange: Exchange) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        asyncio.run(open_loop(specs(0.0), broken, 0.0, 1.0))


def test_closed_loop_keeps_so_many_under_way() -> None:
    under_way: set[int] = set()
    most, order = 0, []

    async def send(exchange: Exchange) -> None:
        nonlocal most
        under_way.add(exchange.index)
        order.append(exchange.index)
        most = max(most, len(under_way))
        for _ in range(1 + exchange.index % 3):
            await asyncio.sleep(0)
        under_way.remove(exchange.index)

    _origin, exchanges = asyncio.run(closed_loop(specs(*[0.0] * 20), send, 4))
    assert most == 4
    assert order == list(range(20)) == [exchange.index for exchange in exchanges]
