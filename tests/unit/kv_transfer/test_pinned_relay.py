"""The relay's protocol, threads and ends, on pools in host memory; tests/gpu has the real copies."""

import os
import signal
import subprocess
import sys
import threading
import time

import msgspec
import pytest
import torch
from support.host_staging import HostRelayEnd

from nanopd.errors import TransferError
from nanopd.kv_transfer import pinned_relay, relay_wire
from nanopd.kv_transfer.endpoint import num_bytes_per_block
from nanopd.kv_transfer.transport import PoolHandle

L, K, S, D = 3, 2, 4, 8


@pytest.fixture(autouse=True)
def small_slots(monkeypatch):
    """Two blocks of bfloat16 each, so that a push needs many slots many times."""
    monkeypatch.setattr(relay_wire, "SLOT_BYTES", 2 * L * 2 * K * S * D * 2)


@pytest.fixture
def make_end():
    ends = []

    def make(name, num_blocks=32):
        ends.append(HostRelayEnd(name, torch.randn(L, num_blocks, 2, K, S, D).bfloat16()))
        return ends[-1]

    yield make
    for end in ends:
        end.gate.set()
        end.server.close()


def wait_for(sender, num_results):
    results, deadline = [], time.monotonic() + 20
    while len(results) < num_results and time.monotonic() < deadline:
        results += sender.poll()
    assert len(results) == num_results
    return results


def test_shuffled_blocks_arrive_bit_exact_and_nothing_else_changes(make_end):
    source, target = make_end("a"), make_end("b", 40)
    before = target.pool.clone()
    generator = torch.Generator().manual_seed(2)
    source_ids = torch.randperm(32, generator=generator)[:23].tolist()
    target_ids = torch.randperm(40, generator=generator)[:23].tolist()
    sender = source.sender()
    sender.push("p1", target.handle, source_ids[:1], target_ids[:1])
    sender.push("p2", target.handle, source_ids[1:], target_ids[1:])
    results = wait_for(sender, 2)
    sender.close()
    block_bytes = num_bytes_per_block(source.pool)
    assert [(r.push_id, r.num_bytes, r.error) for r in results] == [
        ("p1", block_bytes, None),
        ("p2", 22 * block_bytes, None),
    ]
    assert torch.equal(target.pool[:, target_ids], source.pool[:, source_ids])
    untouched = sorted(set(range(40)) - set(target_ids))
    assert torch.equal(target.pool[:, untouched], before[:, untouched])


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)


def test_every_slot_is_under_way_before_the_first_is_empty_again(make_end):
    source, target = make_end("a"), make_end("b")
    target.written_gate.clear()
    sender = source.sender()
    sender.push("p", target.handle, list(range(32)), list(range(32)))
    until(lambda: target.num_written == relay_wire.NUM_SLOTS)
    time.sleep(0.02)
    assert source.num_read == relay_wire.NUM_SLOTS, "a slot was filled that had not been emptied"
    assert sender.poll() == []
    target.written_gate.set()
    assert wait_for(sender, 1)[0].error is None
    assert target.num_written == 16 and torch.equal(source.pool, target.pool)
    sender.close()


def test_the_sender_reads_ahead_of_what_it_announces_but_not_far(make_end):
    source, target = make_end("a"), make_end("b")
    source.read_gate.clear()
    sender = source.sender()
    sender.push("p", target.handle, list(range(32)), list(range(32)))
    until(lambda: source.num_read == pinned_relay._READ_AHEAD)
    time.sleep(0.02)
    assert source.num_read == pinned_relay._READ_AHEAD and target.num_written == 0
    source.read_gate.set()
    assert wait_for(sender, 1)[0].error is None
    sender.close()


def test_both_directions_at_once(make_end):
    a, b = make_end("a"), make_end("b")
    there, back = a.sender(), b.sender()
    there.push("p", b.handle, list(range(16)), list(range(16)))
    back.push("q", a.handle, list(range(16, 32)), list(range(16, 32)))
    wait_for(there, 1), wait_for(back, 1)
    assert torch.equal(a.pool, b.pool)
    there.close(), back.close()


def test_a_probe_touches_no_block_of_the_pool(make_end):
    source, target = make_end("a"), make_end("b")
    before = target.pool.clone()
    sender = source.sender()
    assert sender.probe(target.handle) > 0.0
    assert target.scratch_LNB.any() and torch.equal(target.pool, before)
    assert sender.poll() == []
    sender.close()


def test_a_cancelled_push_stops_and_is_reported_when_nothing_is_written_any_more(make_end):
    source, target = make_end("a"), make_end("b")
    target.gate.clear()
    sender = source.sender()
    sender.push("p", target.handle, list(range(32)), list(range(32)))
    time.sleep(0.05)
    sender.cancel("p")
    assert sender.poll() == []
    target.gate.set()
    (result,) = wait_for(sender, 1)
    after = target.pool.clone()
    assert result.error == "cancelled" and 0 < result.num_bytes < 32 * num_bytes_per_block(source.pool)
    sender.push("q", target.handle, [0], [31])
    assert wait_for(sender, 1)[0].error is None
    assert torch.equal(target.pool[:, :31], after[:, :31])
    sender.close()


def test_a_receiver_that_gives_up_says_why_and_the_next_push_works(make_end):
    source, target = make_end("a"), make_end("b")
    target.fails.append(RuntimeError("out of order"))
    sender = source.sender()
    sender.push("p", target.handle, list(range(32)), list(range(32)))
    (result,) = wait_for(sender, 1)
    assert result.error is not None and "out of order" in result.error
    sender.push("p", target.handle, [3], [4])
    assert wait_for(sender, 1)[0].error is None
    assert torch.equal(target.pool[:, 4], source.pool[:, 3])
    sender.close()


def test_a_receiver_that_is_gone_is_an_error(make_end):
    source, target = make_end("a"), make_end("b")
    target.server.close()
    sender = source.sender()
    sender.push("p", target.handle, [0], [0])
    assert "cannot be reached" in (wait_for(sender, 1)[0].error or "")
    with pytest.raises(TransferError):
        sender.probe(target.handle)
    sender.close()


def test_cut_returns_when_nothing_of_a_lost_sender_can_be_written(make_end):
    source, target = make_end("a"), make_end("b")
    sender = source.sender()
    target.gate.clear()
    sender.push("p", target.handle, list(range(32)), list(range(32)))
    time.sleep(0.05)
    cut = threading.Thread(target=target.server.cut, args=(source.server.name,))
    cut.start()
    time.sleep(0.05)
    assert cut.is_alive(), "it did not wait for the write under way"
    target.gate.set()
    cut.join(10)
    after = target.pool.clone()
    assert not cut.is_alive() and wait_for(sender, 1)[0].error is not None
    assert torch.equal(target.pool, after)
    target.server.cut("nobody")
    sender.close()


RECEIVER = """
import sys, time, torch
sys.path[:0] = ["tests"]
from dataclasses import asdict
import msgspec
from support.host_staging import HostRelayEnd
end = HostRelayEnd("child", torch.zeros(3, 32, 2, 2, 4, 8, dtype=torch.bfloat16))
end.gate.clear()
print(msgspec.json.encode(asdict(end.handle)).decode(), flush=True)
sys.stdin.readline()
"""


def test_a_receiver_killed_in_the_middle_is_an_error(make_end):
    with subprocess.Popen(
        [sys.executable, "-c", RECEIVER],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "."},
    ) as child:
        assert child.stdout is not None
        handle = msgspec.json.decode(child.stdout.readline(), type=PoolHandle)
        sender = make_end("a").sender()
        sender.push("p", handle, list(range(32)), list(range(32)))
        time.sleep(0.1)
        assert sender.poll() == []
        child.send_signal(signal.SIGKILL)
    (result,) = wait_for(sender, 1)
    assert result.error is not None and "hung up" in result.error
    sender.close()
