"""One prefill and one decode worker, driven message by message; the test plays the controller."""

from dataclasses import asdict

import pytest
from support.scripted_workers import BLOCK_SIZE, ScriptedWorkers, expected_tokens

from nanopd.clock import VirtualClock
from nanopd.config import EngineConfig
from nanopd.errors import TransferError
from nanopd.kv_transfer.fault_proxy import FaultPlan, FaultySender
from nanopd.messages import (
    Abort,
    KvPushed,
    Leg,
    LegEnded,
    LegState,
    PeerLost,
    PeerPool,
    Prefill,
    Reserve,
    Reserved,
    RunLocal,
    Start,
    TokensOut,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.workers.options import WorkerOptions

LEG = Leg("r", 0)


def make_request(num_prompt=21, max_tokens=9, **fields):
    prompt = tuple((7 * i + 3) % 97 for i in range(num_prompt))
    return Request("r", prompt, SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=5), **fields)


class Pair:
    """Worker ``p`` prefills, worker ``d`` decodes. ``steps`` alternates them and returns what they said, as the wire would carry it."""

    def __init__(self, plan=None, **options):
        self.clock = VirtualClock()
        self.scripted = ScriptedWorkers(**options)
        if plan is not None:
            self.scripted.wrap_sender = lambda sender: FaultySender(sender, plan, self.clock)
        self.hellos = {}
        for name in ("p", "d"):
            options = WorkerOptions(name, 0, "", EngineConfig(), 1, 0.5, 30.0, 0)
            self.hellos[name] = self.scripted.build(options, self.clock).hello
        self.workers = self.scripted.built
        self.send("p", PeerPool("d", 0, self.hellos["d"].pool))

    def send(self, name, message):
        self.workers[name].handle(decode_to_worker(encode(message)))

    def steps(self, count=60):
        said = {"p": [], "d": []}
        for _ in range(count):
            for name, worker in self.workers.items():
                worker.step()
                said[name] += [decode_from_worker(encode(message)) for message in worker.outbox]
                worker.outbox.clear()
        return said

    def reserve(self, request, leg=LEG):
        self.send("d", Reserve(leg, request))
        (reserved,) = self.steps(2)["d"]
        assert isinstance(reserved, Reserved)
        return reserved

    def prefill(self, request, reserved, output=()):
        self.send("p", Prefill(reserved.leg, request, "d", 0, reserved.block_ids, reserved.num_resident_tokens, output))

    def assert_nothing_is_held(self):
        for worker in self.workers.values():
            assert worker.heartbeat().legs == ()
            assert worker.engine.stats().num_free_blocks == self.scripted.num_blocks
            worker.engine.scheduler.check()


def kinds(messages):
    return [type(message).__name__ for message in messages]


def tokens_of(messages):
    return [token for m in messages if isinstance(m, TokensOut) for delta in m.deltas for token in delta.token_ids]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_local_leg_streams_and_ends(depth):
    pair = Pair(pipeline_depth=depth)
    request = make_request()
    pair.send("p", RunLocal(LEG, request))
    pair.send("p", RunLocal(LEG, request))  # a repeated message
    said = pair.steps()["p"]
    assert tokens_of(said) == expected_tokens(request)
    indexes = [delta.first_index for m in said[:-1] for delta in m.deltas]
    assert indexes == list(range(9))
    assert said[-1].reason is FinishReason.LENGTH and said[-1].num_output_tokens == 9
    pair.assert_nothing_is_held()


def test_a_first_token_does_not_wait_for_the_push_of_its_prompt():
    pair, events = Pair(), []
    worker = pair.workers["p"]
    push = worker._sender.push

    def noted_push(*args):
        events.append("push")
        push(*args)

    def say_now():
        events.extend(kinds(worker.outbox))
        worker.outbox.clear()

    worker._sender.push, worker.say_now = noted_push, say_now
    request = make_request(4)
    pair.prefill(request, pair.reserve(request))
    pair.steps()
    assert events == ["TokensOut", "push"]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("num_prompt", [1, 4, 6, 7, 8, 21, 24])
def test_a_handoff_gives_the_same_tokens(num_prompt, depth):
    pair = Pair(pipeline_depth=depth)
    request = make_request(num_prompt)
    reserved = pair.reserve(request)
    assert len(reserved.block_ids) == -(-num_prompt // BLOCK_SIZE)
    assert pair.workers["d"].heartbeat().legs == ((LEG, LegState.RESERVED),)
    pair.prefill(request, reserved)
    prefill = pair.steps()["p"]
    assert kinds(prefill) == ["TokensOut", "KvPushed", "LegEnded"]
    assert prefill[1].num_blocks == len(reserved.block_ids)
    assert prefill[1].num_bytes == len(reserved.block_ids) * BLOCK_SIZE * 4
    assert prefill[2].reason is None and prefill[2].error is None
    first = tokens_of(prefill)
    pair.send("d", Start(LEG, first[0]))
    pair.send("d", Start(LEG, first[0]))  # a repeated message
    decode = pair.steps()["d"]
    assert first + tokens_of(decode) == expected_tokens(request)
    assert decode[-1].reason is FinishReason.LENGTH and decode[-1].num_output_tokens == 9
    pair.assert_nothing_is_held()


def test_a_later_attempt_goes_on_from_the_tokens_already_streamed():
    pair = Pair()
    request = make_request()
    expected = expected_tokens(request)
    pair.send("d", Reserve(LEG, request, tuple(expected[:4])))
    (reserved,) = pair.steps(2)["d"]
    pair.prefill(request, reserved, tuple(expected[:4]))
    prefill = pair.steps()["p"]
    assert prefill[0].deltas[0].first_index == 4
    pair.send("d", Start(LEG, tokens_of(prefill)[0]))
    assert tokens_of(prefill) + tokens_of(pair.steps()["d"]) == expected[4:]


def test_only_what_the_destination_lacks_is_pushed():
    pair = Pair()
    request = make_request(num_prompt=21)
    pair.send("d", RunLocal(Leg("warm", 0), request))
    pair.steps()
    reserved = pair.reserve(request)
    assert reserved.num_resident_tokens == 20 and len(reserved.block_ids) == 1
    pair.prefill(request, reserved)
    prefill = pair.steps()["p"]
    assert prefill[1].num_blocks == 1
    pair.send("d", Start(LEG, tokens_of(prefill)[0]))
    assert tokens_of(prefill) + tokens_of(pair.steps()["d"]) == expected_tokens(request)


def test_chunks_are_pushed_while_later_ones_compute():
    pair = Pair(chunk_size=4)
    request = make_request(num_prompt=21)
    pair.prefill(request, pair.reserve(request))
    pair.steps(3)
    handoff = pair.workers["p"]._legs["r#0"].handoff
    assert 0 < len(handoff.source_ids) < 6


def test_a_request_that_ends_with_its_first_token_is_not_handed_off():
    pair = Pair()
    request = make_request(max_tokens=1)
    pair.prefill(request, pair.reserve(request))
    said = pair.steps()["p"]
    assert kinds(said) == ["TokensOut", "LegEnded"]
    assert said[-1].reason is FinishReason.LENGTH and said[-1].num_output_tokens == 1
    pair.send("d", Abort(LEG))
    assert kinds(pair.steps()["d"]) == ["LegEnded"]
    pair.assert_nothing_is_held()


def test_the_fence_waits_for_every_push():
    pair = Pair(FaultPlan(delay=1.0, delay_s=5.0))
    request = make_request()
    pair.prefill(request, pair.reserve(request))
    assert kinds(pair.steps()["p"]) == ["TokensOut"]
    assert pair.workers["p"].heartbeat().legs == ((LEG, LegState.PUSHING),)
    assert pair.workers["p"].is_pushing and not pair.workers["p"].has_work
    pair.clock.advance_to(5.0)
    said = pair.steps()["p"]
    assert kinds(said) == ["KvPushed", "LegEnded"]
    assert said[0].exposed_ms == 5000.0


def test_a_push_reported_twice_counts_once():
    pair = Pair(FaultPlan(duplicate=1.0))
    request = make_request(num_prompt=21)
    pair.prefill(request, pair.reserve(request))
    said = pair.steps()["p"]
    assert kinds(said) == ["TokensOut", "KvPushed", "LegEnded"]
    assert said[1].num_bytes == 6 * BLOCK_SIZE * 4


def test_a_failed_push_ends_the_leg_with_an_error():
    pair = Pair(FaultPlan(fail=1.0, max_faults=1))
    request = make_request()
    pair.prefill(request, pair.reserve(request))
    said = pair.steps()["p"]
    assert "KvPushed" not in kinds(said) and kinds(said)[-1] == "LegEnded"
    assert said[-1].reason is FinishReason.ERROR and "injected failure" in said[-1].error
    assert pair.workers["p"].heartbeat().legs == ()
    assert pair.workers["p"].engine.stats().num_free_blocks == 64


def test_an_abort_while_pushing_waits_until_nothing_can_be_written():
    pair = Pair(FaultPlan(delay=1.0, delay_s=5.0))
    request = make_request()
    pair.prefill(request, pair.reserve(request))
    pair.steps()
    before = pair.scripted.pools["d"].clone()
    pair.send("p", Abort(LEG))
    pair.send("p", Abort(LEG))
    ended = pair.steps()["p"]
    assert kinds(ended) == ["LegEnded"] and ended[0].reason is FinishReason.ABORT
    pair.clock.advance_to(10.0)
    pair.steps()
    assert bool((pair.scripted.pools["d"] == before).all())
    pair.send("d", Abort(LEG))
    pair.steps()
    pair.assert_nothing_is_held()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("num_steps", range(12))
def test_an_abort_at_any_step_returns_every_block(num_steps, depth):
    pair = Pair(chunk_size=3, pipeline_depth=depth)
    request = make_request()
    reserved = pair.reserve(request)
    pair.prefill(request, reserved)
    pair.send("p", RunLocal(Leg("local", 0), request))
    ended = [("p", m) for m in pair.steps(num_steps)["p"] if isinstance(m, LegEnded)]
    for name, leg in (("p", LEG), ("p", Leg("local", 0)), ("d", LEG)):
        pair.send(name, Abort(leg))
        ended += [(name, m) for m in pair.steps(4)[name] if isinstance(m, LegEnded)]
    for name, leg in (("p", LEG), ("p", Leg("local", 0)), ("d", LEG)):
        ends = [m.reason for where, m in ended if where == name and m.leg == leg]
        late_abort = len(ends) == 2 and ends[1] is None and ends[0] is not FinishReason.ABORT
        assert len(ends) == 1 or late_abort
    pair.assert_nothing_is_held()


def test_a_push_that_never_ends_is_broken_off():
    pair = Pair(FaultPlan(drop=1.0, max_faults=1))
    request = make_request()
    pair.prefill(request, pair.reserve(request))
    assert kinds(pair.steps()["p"]) == ["TokensOut"]
    pair.clock.advance_to(30.0)
    said = pair.steps()["p"]
    assert kinds(said) == ["LegEnded"] and said[0].error == "the KV push made no progress for 30 s"
    assert pair.workers["p"].engine.stats().num_free_blocks == 64


def test_a_worker_that_cannot_stop_a_push_gives_itself_up(monkeypatch):
    pair = Pair(FaultPlan(drop=1.0))
    monkeypatch.setattr(FaultySender, "cancel", lambda self, push_id: None)
    request = make_request()
    pair.prefill(request, pair.reserve(request))
    pair.steps()
    pair.clock.advance_to(30.0)
    assert kinds(pair.steps()["p"]) == []
    pair.clock.advance_to(60.0)
    with pytest.raises(TransferError, match="did not end within 30 s"):
        pair.steps()


def test_an_unknown_leg_is_answered_at_once():
    pair = Pair()
    pair.send("p", Abort(LEG))
    assert pair.workers["p"].outbox == [LegEnded(LEG, None)]


def test_a_lost_peer_ends_the_pushes_to_it():
    pair = Pair(FaultPlan(delay=1.0, delay_s=5.0))
    request = make_request()
    pair.prefill(request, pair.reserve(request))
    pair.steps()
    pair.send("p", PeerLost("d", 7))  # another incarnation
    assert kinds(pair.steps()["p"]) == []
    pair.send("p", PeerLost("d", 0))
    said = pair.steps()["p"]
    assert kinds(said) == ["LegEnded"] and said[0].error == "d was lost"
    assert pair.workers["p"].engine.stats().num_free_blocks == 64


def test_what_cannot_be_served_is_refused_with_a_sentence():
    pair = Pair()
    request = make_request()
    reserved = pair.reserve(request)
    pair.send("p", Prefill(LEG, request, "stranger", 0, reserved.block_ids, 0))
    assert pair.workers["p"].outbox.pop().error == "the KV pool of stranger is not known here"
    pair.send("p", Prefill(LEG, request, "d", 0, reserved.block_ids[:-1], 0))
    assert pair.workers["p"].outbox.pop().error == "expected 6 reserved blocks, got 5"
    odd = asdict(pair.workers["p"]._pools["d", 0]) | {"block_size": 8}
    pair.send("p", PeerPool("odd", 0, odd))
    pair.send("p", Prefill(LEG, request, "odd", 0, reserved.block_ids, 0))
    assert pair.workers["p"].outbox.pop().error == "odd has blocks of 8 tokens, this worker of 4"
    pair.send("d", Reserve(Leg("big", 0), make_request(num_prompt=500)))
    (ended,) = pair.steps(2)["d"]
    assert ended.reason is FinishReason.ERROR and "500" in ended.error
    pair.send("d", RunLocal(Leg("empty", 0), Request("r", (), SamplingParams(seed=1))))
    assert "at least one token" in pair.workers["d"].outbox.pop().error


@pytest.mark.parametrize("corrupt", [0.0, 1.0])
def test_a_checksum_travels_with_the_fence(corrupt):
    pair = Pair(FaultPlan(corrupt=corrupt), verify=True)
    request = make_request()
    pair.prefill(request, pair.reserve(request))
    prefill = pair.steps()["p"]
    pushed = next(message for message in prefill if isinstance(message, KvPushed))
    pair.send("d", Start(LEG, tokens_of(prefill)[0], pushed.checksum))
    decode = pair.steps()["d"]
    if corrupt:
        assert kinds(decode) == ["LegEnded"] and "checksum" in decode[0].error
    else:
        assert tokens_of(prefill) + tokens_of(decode) == expected_tokens(request)
    pair.assert_nothing_is_held()


def test_a_heartbeat_says_how_long_ago_the_inbox_was_read():
    """A message that arrives during a long step is not yet a leg: the controller must not take it for a lost one."""
    pair = Pair()
    worker = pair.workers["p"]
    worker.step()
    pair.clock.advance_to(2.5)  # as long as a step may take
    assert worker.heartbeat().loop_age_s == 2.5
    worker.step()
    assert worker.heartbeat().loop_age_s == 0.0
