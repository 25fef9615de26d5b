import asyncio
import os
import stat
import subprocess
import sys

import zmq

from nanopd.messages import Abort, Failed, Hello, Leg, LegEnded, RunLocal
from nanopd.request import Request, SamplingParams, Slo, Strategy
from nanopd.runtime.ipc import ControllerChannel
from nanopd.workers.channel import WorkerChannel, identity, parse_identity

HELLO = Hello("w", 3, 1, 8, 16, 128, 64, {"transport": "loopback", "num_blocks": 8})


async def next_messages(channel, count):
    received = []
    enough = asyncio.Event()

    def deliver(*message):
        received.append(message)
        if len(received) == count:
            enough.set()

    task = asyncio.create_task(channel.receive(deliver))
    await asyncio.wait_for(enough.wait(), 20)
    task.cancel()
    return received


def test_messages_go_both_ways_and_keep_their_order():
    request = Request(
        "r", (1, 2), SamplingParams(logit_bias={3: 1.5}, stop=("x",)), slo=Slo(1.0), strategy=Strategy.ADAPTIVE
    )
    orders = [RunLocal(Leg("r", 0), request, (9,)), Abort(Leg("r", 0))]

    async def run():
        channel = ControllerChannel()
        worker = WorkerChannel(channel.address, identity("w", 3))
        worker.send(HELLO)
        for i in range(20):
            worker.send(LegEnded(Leg("r", i), None))
        received = await next_messages(channel, 21)
        for order in orders:
            channel.send("w", 3, order)
        channel.send("w", 2, Abort(Leg("old", 0)))  # an earlier incarnation: goes nowhere
        answers = []
        while len(answers) < 2:
            answers += await asyncio.to_thread(worker.receive, 5.0)
        worker.close()
        channel.close()
        return received, answers

    received, answers = asyncio.run(run())
    assert received[0] == ("w", 3, HELLO)
    assert [message.leg.attempt for _, _, message in received[1:]] == list(range(20))
    assert answers == orders


def test_what_is_no_message_is_dropped():
    async def run():
        channel = ControllerChannel()
        with zmq.Context() as context:
            stranger = context.socket(zmq.DEALER)
            stranger.identity = b"stranger"
            stranger.connect(channel.address)
            stranger.send(b"hello?")
            worker = context.socket(zmq.DEALER)
            worker.identity = identity("w", 0)
            worker.connect(channel.address)
            worker.send(b"\x00garbled")
            worker.send_multipart([b"two", b"frames"])
            worker.close(linger=1000)
            stranger.close(linger=1000)
        last = WorkerChannel(channel.address, identity("w", 1))
        last.send(Failed("end"))
        received = await next_messages(channel, 1)
        last.close()
        channel.close()
        return received

    assert asyncio.run(run()) == [("w", 1, Failed("end"))]


def test_the_directory_is_private_and_goes_away(short_tmp):

    async def run():
        channel = ControllerChannel()
        directories = list(short_tmp.iterdir())
        mode = stat.S_IMODE(directories[0].stat().st_mode)
        channel.close()
        return len(directories), mode

    assert asyncio.run(run()) == (1, 0o700)
    assert list(short_tmp.iterdir()) == []


def test_what_a_killed_controller_left_is_removed(short_tmp):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover = short_tmp / f"nanopd-{ended.pid}-0123abcd"
    alive = short_tmp / f"nanopd-{os.getppid()}-0123abcd"
    other = short_tmp / "nanopd-notes"
    for directory in (leftover, alive, other):
        directory.mkdir()
        (directory / "workers").touch()

    async def run():
        ControllerChannel().close()

    asyncio.run(run())
    assert sorted(path.name for path in short_tmp.iterdir()) == sorted([alive.name, other.name])


def test_identities():
    assert parse_identity(identity("prefill-0", 12, "heart")) == ("prefill-0", 12)
    assert parse_identity(b"\xff\x00") is None
    assert parse_identity(b"a/b/c") is None
