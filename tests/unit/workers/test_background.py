"""A fence is told while a step still runs, with steps that end when the test says so."""

import threading

import pytest
from support.scripted_workers import BLOCK_SIZE, MAX_MODEL_LEN, VOCAB_SIZE, ScriptedWorkers

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.engine.scripted import ScriptedExecutor
from nanopd.kv_transfer.fault_proxy import FaultPlan, FaultySender
from nanopd.messages import KvPushed, Leg, LegEnded, PeerPool, Prefill, Reserve, Reserved, RunLocal, TokensOut
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.workers.background import BackgroundExecutor, WatchfulExecutor
from nanopd.workers.options import WorkerOptions


class TimedStep:
    """Ends a fixed time after it began, on a virtual clock that only waiting moves on."""

    def __init__(self, inner, clock, step_s):
        self._inner = inner
        self._clock = clock
        self._ends_at = clock.now() + step_s

    def done(self):
        return self._clock.now() >= self._ends_at

    def result(self):
        self._clock.advance_to(max(self._clock.now(), self._ends_at))
        return self._inner.result()


class TimedExecutor(ScriptedExecutor):
    clock = VirtualClock()
    step_s = 1.0

    def submit(self, batch):
        return TimedStep(super().submit(batch), self.clock, self.step_s)


def request(name, num_prompt):
    prompt = tuple((7 * i + 3) % 97 for i in range(num_prompt))
    return Request(name, prompt, SamplingParams(max_tokens=4, temperature=1.0, seed=5))


@pytest.fixture
def worlds():
    """A prefill worker whose steps take 1 s and whose pushes take 0.25 s, beside a decode worker; what it says, and when."""
    clock = VirtualClock()
    scripted = ScriptedWorkers()
    scripted.wrap_sender = lambda sender: FaultySender(sender, FaultPlan(delay=1.0, delay_s=0.25), clock)
    hellos = {}
    for name in ("p", "d"):
        options = WorkerOptions(name, 0, "", EngineConfig(), 1, 0.5, 30.0, 0)
        hellos[name] = scripted.build(options, clock).hello
    prefill, decode = scripted.built["p"], scripted.built["d"]
    executor = TimedExecutor(scripted.num_blocks, BLOCK_SIZE, VOCAB_SIZE)
    executor.clock = clock
    watchful = WatchfulExecutor(executor)
    blocks = BlockManager(scripted.num_blocks, BLOCK_SIZE)
    config = SchedulerConfig(prefill_chunk_size=6, max_num_batched_tokens=32)
    prefill.engine = Engine(Scheduler(config, blocks, MAX_MODEL_LEN), watchful, clock)
    prefill.handle(PeerPool("d", 0, hellos["d"].pool))
    return clock, prefill, decode, watchful


def drive(worlds, is_watched, num_steps=8):
    """The prefill of "a" ends in its second step; "b" keeps the worker busy. Seconds at which each message about "a" was said."""
    clock, prefill, decode, watchful = worlds
    said = {}

    def note():
        for message in prefill.outbox:
            legs = [d.leg for d in message.deltas] if isinstance(message, TokensOut) else [message.leg]
            if any(leg.request_id == "a" for leg in legs):
                said.setdefault(type(message), clock.now())
        prefill.outbox.clear()

    def meanwhile():
        clock.advance_to(clock.now() + 0.05)  # a nap
        prefill.look_at_pushes()
        note()
        return prefill.is_pushing

    if is_watched:
        watchful.watch(meanwhile)
    decode.handle(Reserve(Leg("a", 0), request("a", 11)))
    decode.step()
    reserved = next(m for m in decode.outbox if isinstance(m, Reserved))
    prefill.handle(Prefill(reserved.leg, request("a", 11), "d", 0, reserved.block_ids, 0))
    prefill.handle(RunLocal(Leg("b", 0), request("b", 40)))
    for _ in range(num_steps):
        prefill.step()
        note()
    return said


def test_a_fence_is_told_while_the_next_step_runs(worlds):
    said = drive(worlds, is_watched=True)
    assert said[KvPushed] - said[TokensOut] == pytest.approx(0.25, abs=0.051)  # the push, and at most one nap
    assert said[LegEnded] == said[KvPushed]


def test_without_a_watch_it_waits_for_the_end_of_the_step(worlds):
    said = drive(worlds, is_watched=False)
    assert said[KvPushed] - said[TokensOut] >= 1.0


def test_nobody_is_woken_when_nothing_is_pushed(worlds):
    clock, prefill, _, watchful = worlds
    calls = []

    def meanwhile():
        calls.append(clock.now())
        return prefill.is_pushing

    watchful.watch(meanwhile)
    prefill.handle(RunLocal(Leg("b", 0), request("b", 40)))
    num_steps = 0
    while prefill.has_work:
        prefill.step()
        num_steps += 1
    assert len(calls) <= num_steps


class GatedExecutor:
    """Computes when the test opens the gate, on whatever thread calls it."""

    def __init__(self):
        self.gate = threading.Event()
        self.threads = []

    def submit(self, batch):
        self.threads.append(threading.current_thread())
        self.gate.wait(10)
        if batch is None:
            raise RuntimeError("a broken step")
        return FinishedStep(batch)


class FinishedStep:
    def __init__(self, value):
        self._value = value

    def done(self):
        return True

    def result(self):
        return self._value


def test_a_background_step_runs_on_a_thread_of_its_own_and_in_order():
    inner = GatedExecutor()
    executor = BackgroundExecutor(inner)
    steps = [executor.submit(number) for number in (1, 2)]
    assert not steps[0].done()
    inner.gate.set()
    assert [step.result() for step in steps] == [1, 2]
    assert steps[1].done()
    assert set(inner.threads) == {executor._thread}
    failed = executor.submit(None)
    with pytest.raises(RuntimeError, match="a broken step"):
        failed.result()
    assert executor.submit(3).result() == 3
    executor.close()
    assert not executor._thread.is_alive()
