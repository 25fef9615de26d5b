"""The whole runtime over scripted workers on threads: real sockets, real engines, real hand-offs."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import pytest
from support.scripted_workers import MAX_MODEL_LEN, VOCAB_SIZE, ScriptedWorkers, expected_tokens

from nanopd.config import ClusterConfig, EngineConfig, ModelConfig, Topology
from nanopd.errors import ConfigError, InvalidRequestError, OverloadedError, PromptTooLongError, WorkerError
from nanopd.kv_transfer.failover import FailoverSender
from nanopd.kv_transfer.fault_proxy import FaultPlan, FaultySender
from nanopd.kv_transfer.loopback import LoopbackSender
from nanopd.kv_transfer.transport import PushResult
from nanopd.request import FinishReason, Request, SamplingParams, Strategy
from nanopd.runtime import controller as controller_module
from nanopd.runtime.clock import WallClock
from nanopd.runtime.controller import Controller
from nanopd.runtime.ipc import ControllerChannel
from nanopd.runtime.launcher import InProcessLauncher
from nanopd.runtime.supervisor import RestartPolicy

MODEL = ModelConfig("llama", VOCAB_SIZE, 8, 8, 1, 1, 1, 8, MAX_MODEL_LEN, 1e-5, 1e4)


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch, short_tmp):
    monkeypatch.setattr(controller_module, "resolve_model", lambda name: name)
    monkeypatch.setattr(controller_module, "load_config", lambda source: MODEL)


def make_controller(scripted, workers="1C+1P+1D", **options):
    cluster = ClusterConfig(
        topology=Topology.parse(workers),
        **{
            "strategy": Strategy.DISAGGREGATED,
            "heartbeat_interval_s": 0.05,
            "reconcile_grace_s": 0.5,
            "push_timeout_s": 0.2,
            **options,
        },
    )
    policy = RestartPolicy(quick_death_s=0.2, first_delay_s=0.05)
    return Controller(
        EngineConfig(device="cpu"), cluster, launcher=InProcessLauncher(scripted.build), restart_policy=policy
    )


@asynccontextmanager
async def running(scripted, workers="1C+1P+1D", **options):
    controller = make_controller(scripted, workers, **options)
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


def make_request(index, num_prompt=13, max_tokens=12, strategy=None, **sampling):
    prompt = tuple((11 * i + index) % VOCAB_SIZE for i in range(num_prompt))
    params = SamplingParams(**{"max_tokens": max_tokens, "temperature": 1.0, "seed": index, **sampling})
    return Request(f"r{index}", prompt, params, strategy=strategy)


async def collect(stream):
    tokens, next_index = [], 0
    async for delta in stream:
        assert delta.first_index == next_index
        tokens += delta.token_ids
        next_index += len(delta.token_ids)
    return tokens


async def until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


async def until_nothing_is_held(controller, scripted):
    """Every leg has ended and every block is back, as the workers themselves report."""

    def idle():
        snapshot = controller.snapshot()
        frees = [worker.engine.stats().num_free_blocks for worker in scripted.built.values()]
        return snapshot.num_open_legs == 0 and set(frees) == {scripted.num_blocks}

    await until(idle)
    for worker in scripted.built.values():
        worker.engine.scheduler.check()


@pytest.mark.parametrize("strategy", list(Strategy))
def test_all_requests_stream_what_they_should_and_leave_nothing(strategy, short_tmp):
    async def run():
        scripted = ScriptedWorkers(num_blocks=24)  # fewer than twelve requests need: some must wait or be preempted
        async with running(scripted, strategy=strategy) as controller:
            finished = []
            controller.on_finish.append(lambda finish, request: finished.append(finish.request_id))
            requests = [make_request(i, num_prompt=1 + 3 * i) for i in range(12)]
            streams = [controller.submit(request) for request in requests]
            outputs = await asyncio.gather(*map(collect, streams))
            assert outputs == [expected_tokens(request) for request in requests]
            assert {stream.finish.reason for stream in streams} == {FinishReason.LENGTH}
            assert sorted(finished) == sorted(request.request_id for request in requests)
            await until_nothing_is_held(controller, scripted)
            if strategy is Strategy.DISAGGREGATED:
                assert controller.snapshot().counters.handoffs >= 12
                report = streams[5].finish.report
                assert report.transport == "loopback" and report.transfer_bytes > 0

    asyncio.run(run())
    assert list(short_tmp.iterdir()) == []
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("nanopd")]


def test_a_lost_worker_costs_nobody_a_token():
    async def run(victim, num_tokens):
        scripted = ScriptedWorkers(step_s=0.003)
        async with running(scripted) as controller:
            requests = [make_request(i, num_prompt=20 + i, max_tokens=30) for i in range(10)]
            streams = [controller.submit(request) for request in requests]
            tasks = [asyncio.create_task(collect(stream)) for stream in streams]
            await until(lambda: controller.snapshot().counters.output_tokens > num_tokens)
            controller._fleet.members[victim].handle.kill()
            assert await asyncio.gather(*tasks) == [expected_tokens(request) for request in requests]
            assert {stream.finish.reason for stream in streams} == {FinishReason.LENGTH}
            assert any(stream.finish.report.num_attempts > 1 for stream in streams)
            await until(lambda: all(worker.ready for worker in controller.snapshot().workers))
            assert {w.worker_id: w.incarnation for w in controller.snapshot().workers}[victim] == 1
            await until_nothing_is_held(controller, scripted)
            late = make_request(50)
            assert await collect(controller.submit(late)) == expected_tokens(late)

    asyncio.run(run("prefill-0", num_tokens=1))  # in the middle of the prefills
    asyncio.run(run("decode-0", num_tokens=40))


@pytest.mark.parametrize(
    "plan",
    [
        FaultPlan(fail=0.3, seed=1),
        FaultPlan(drop=0.2, seed=2),
        FaultPlan(delay=0.5, delay_s=0.03, seed=3),
        FaultPlan(duplicate=0.5, seed=4),
        FaultPlan(corrupt=0.2, seed=5),
    ],
    ids=["fail", "drop", "delay", "duplicate", "corrupt"],
)
def test_transport_faults_are_survived(plan):
    async def run():
        senders = []

        def wrap(sender):
            senders.append(FaultySender(sender, plan, WallClock()))
            return senders[-1]

        scripted = ScriptedWorkers(wrap_sender=wrap, verify=plan.corrupt > 0)
        async with running(scripted) as controller:
            requests = [make_request(i, num_prompt=9 + i) for i in range(10)]
            streams = [controller.submit(request) for request in requests]
            tasks = [asyncio.create_task(collect(stream)) for stream in streams]
            outputs = await asyncio.gather(*tasks)
            assert sum(sum(sender.counts.values()) for sender in senders) > 0
            assert outputs == [expected_tokens(request) for request in requests]
            assert {stream.finish.reason for stream in streams} == {FinishReason.LENGTH}
            await until_nothing_is_held(controller, scripted)

    asyncio.run(run())


def test_aborts_at_random_times_return_every_block():
    async def run():
        scripted = ScriptedWorkers(num_blocks=24, step_s=0.001)
        async with running(scripted) as controller:
            requests = [make_request(i, num_prompt=5 + i % 20, max_tokens=20) for i in range(40)]
            streams = []
            for i, request in enumerate(requests):
                streams.append(controller.submit(request))
                asyncio.get_running_loop().call_later(0.002 * (i * 7 % 30), controller.abort, request.request_id)
            outputs = await asyncio.gather(*map(collect, streams))
            for request, stream, output in zip(requests, streams, outputs, strict=True):
                assert stream.finish.reason in (FinishReason.ABORT, FinishReason.LENGTH)
                assert output == expected_tokens(request)[: len(output)]
            await until_nothing_is_held(controller, scripted)

    asyncio.run(run())


def test_a_bad_request_never_reaches_a_worker():
    async def run():
        async with running(ScriptedWorkers(), max_queued_requests=2) as controller:
            with pytest.raises(PromptTooLongError):
                controller.submit(make_request(0, num_prompt=MAX_MODEL_LEN))
            with pytest.raises(InvalidRequestError):
                controller.submit(make_request(0, num_prompt=0))
            first = controller.submit(make_request(0))
            with pytest.raises(InvalidRequestError, match="in use"):
                controller.submit(make_request(0))
            controller.submit(make_request(1))
            with pytest.raises(OverloadedError) as caught:
                controller.submit(make_request(2))
            assert caught.value.retry_after_s >= 1.0
            await collect(first)
            assert first.finish.reason is FinishReason.LENGTH
            assert controller.snapshot().counters.requests == 2

    asyncio.run(run())


def test_a_stop_string_ends_a_request_with_reason_stop():
    async def run():
        async with running(ScriptedWorkers(step_s=0.002)) as controller:
            stream = controller.submit(make_request(0, max_tokens=150))
            await anext(stream)
            controller.abort("r0", FinishReason.STOP)
            controller.abort("r0", FinishReason.STOP)
            controller.abort("unknown")
            await collect_rest(stream)
            assert stream.finish.reason is FinishReason.STOP

    async def collect_rest(stream):
        async for _ in stream:
            pass

    asyncio.run(run())


def test_drain_finishes_what_was_accepted_and_refuses_the_rest():
    async def run():
        async with running(ScriptedWorkers(step_s=0.001)) as controller:
            request = make_request(0, max_tokens=40)
            stream = controller.submit(request)
            draining = asyncio.create_task(controller.drain(20.0))
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError, match="shutting down"):
                controller.submit(make_request(1))
            await draining
            assert stream.finish.reason is FinishReason.LENGTH
            assert await collect(stream) == expected_tokens(request)

    asyncio.run(run())


def test_stop_ends_unfinished_requests():
    async def run():
        async with running(ScriptedWorkers(step_s=0.005)) as controller:
            stream = controller.submit(make_request(0, max_tokens=150))
            await anext(stream)
        assert stream.finish.reason is FinishReason.ABORT
        await controller.stop()

    asyncio.run(run())


def test_a_worker_that_cannot_start_says_why(short_tmp):
    async def run():
        scripted = ScriptedWorkers(fails={"decode-0": [ConfigError("num_blocks must be at least 1, got 0")]})
        with pytest.raises(WorkerError, match="decode-0 .*num_blocks must be at least 1, got 0"):
            await make_controller(scripted).start()

    asyncio.run(run())
    assert list(short_tmp.iterdir()) == []
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("nanopd")]


def test_last_words_are_heard_even_after_the_end(short_tmp, monkeypatch):
    """The end of a worker and its last message come by different ways; either may be first."""
    receive = ControllerChannel.receive

    async def slow(self, deliver):
        loop = asyncio.get_running_loop()
        await receive(self, lambda *message: loop.call_later(0.2, deliver, *message))

    monkeypatch.setattr(ControllerChannel, "receive", slow)

    async def run():
        scripted = ScriptedWorkers(fails={"decode-0": [ConfigError("num_blocks must be at least 1, got 0")]})
        with pytest.raises(WorkerError, match="decode-0 .*num_blocks must be at least 1, got 0"):
            await make_controller(scripted).start()

    asyncio.run(run())


def test_a_worker_that_keeps_dying_is_given_up_and_its_requests_end():
    async def run():
        scripted = ScriptedWorkers(step_s=0.002)
        async with running(scripted, "1C", queue_timeout_s=60.0) as controller:
            stream = controller.submit(make_request(0, max_tokens=150))
            await anext(stream)
            scripted.fails["collocated-0"] = [RuntimeError("no luck")] * 9
            controller._fleet.members["collocated-0"].handle.kill()
            async for _ in stream:
                pass
            assert stream.finish.reason is FinishReason.ERROR
            assert "no luck" in stream.finish.error
            with pytest.raises(WorkerError, match="no worker is left"):
                controller.submit(make_request(1))

    asyncio.run(run())


def test_a_long_step_is_no_silence():
    async def run():
        scripted = ScriptedWorkers()
        async with running(scripted, "1C", heartbeat_timeout_s=0.5) as controller:
            scripted.built["collocated-0"].engine._executor.step_s = 1.2
            request = make_request(0, max_tokens=1, num_prompt=5)
            assert await collect(controller.submit(request)) == expected_tokens(request)
            assert controller.snapshot().workers[0].incarnation == 0

    asyncio.run(run())


def test_a_silent_worker_is_restarted():
    async def run():
        async with running(ScriptedWorkers(), "1C", heartbeat_interval_s=1.0, heartbeat_timeout_s=0.3) as controller:
            await until(lambda: controller.snapshot().workers[0].incarnation == 1)

    asyncio.run(run())


def test_events_of_two_loops_do_not_mix():
    """Two controllers in one process, each on a thread of its own, as two ``LLM`` objects would be."""

    def serve(results):
        async def run():
            async with running(ScriptedWorkers(), "1P+1D") as controller:
                request = make_request(3)
                results.append(await collect(controller.submit(request)) == expected_tokens(request))

        asyncio.run(run())

    results = []
    threads = [threading.Thread(target=serve, args=(results,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True, True]


class BreakingSender:
    """A transport of this name that carries ``num_pushes`` and then reports every push as failed."""

    def __init__(self, transport, inner, num_pushes=None):
        self.transport = transport
        self._inner = inner
        self._left = num_pushes
        self._failed = []

    def push(self, push_id, destination, source_ids, destination_ids):
        if self._left == 0:
            self._failed.append(PushResult(push_id, 0, 0.0, "the link is down"))
            return
        if self._left is not None:
            self._left -= 1
        self._inner.push(push_id, destination, source_ids, destination_ids)

    def poll(self):
        failed, self._failed = self._failed, []
        return failed + self._inner.poll()

    def probe(self, destination):
        return 1.0

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.mark.asyncio
async def test_a_transport_that_fails_in_service_costs_no_request_an_attempt():
    scripted = ScriptedWorkers(chunk_size=4)

    def wrap(inner):  # each transport has a queue of its own, as two real ones have
        pool = inner._pool
        senders = [BreakingSender("first", inner, 7), BreakingSender("second", LoopbackSender(scripted.hub, pool))]
        return FailoverSender(senders, lambda destination, known: ["first", "second"])

    scripted.wrap_sender = wrap
    async with running(scripted, "1P+1D") as controller:
        requests = [make_request(i, num_prompt=30) for i in range(12)]
        streams = [controller.submit(request) for request in requests]
        answers = await asyncio.gather(*map(collect, streams))
        assert answers == [expected_tokens(request) for request in requests]
        reports = [stream.finish.report for stream in streams]
        assert {report.num_attempts for report in reports} == {1}
        assert "second" in {report.transport for report in reports}
