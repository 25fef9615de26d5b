import pytest
import torch

from nanopd.clock import VirtualClock
from nanopd.kv_transfer.checksum import checksum_blocks
from nanopd.kv_transfer.fault_proxy import FaultPlan, FaultySender
from nanopd.kv_transfer.loopback import LoopbackHub


@pytest.fixture
def pools():
    hub = LoopbackHub()
    ends = hub.endpoint("a"), hub.endpoint("b")
    shape = (2, 8, 2, 1, 4, 4)
    source, target = (end.allocate(torch.Size(shape).numel() * 4).view(torch.float32).view(shape) for end in ends)
    source.copy_(torch.randn(shape))
    return ends[0].sender(source), source, target, ends[1].export(target)


def faulty(pools, **plan):
    clock = VirtualClock()
    return FaultySender(pools[0], FaultPlan(**plan), clock), clock


def test_a_dropped_push_is_silent_until_it_is_cancelled(pools):
    sender, _ = faulty(pools, drop=1.0)
    sender.push("p", pools[3], [1], [2])
    assert sender.poll() == []
    assert not pools[2].any()
    sender.cancel("p")
    assert [r.error for r in sender.poll()] == ["cancelled"]


def test_a_delayed_push_is_carried_out_later(pools):
    sender, clock = faulty(pools, delay=1.0, delay_s=2.0)
    sender.push("p", pools[3], [1], [2])
    assert sender.poll() == [] and not pools[2].any()
    clock.advance_to(2.0)
    assert [(r.push_id, r.error) for r in sender.poll()] == [("p", None)]
    assert torch.equal(pools[2][:, 2], pools[1][:, 1])


def test_failed_and_duplicate_reports(pools):
    sender, _ = faulty(pools, fail=1.0)
    sender.push("p", pools[3], [1], [2])
    assert [r.error for r in sender.poll()] == ["injected failure"]
    sender, _ = faulty(pools, duplicate=1.0)
    sender.push("p", pools[3], [1], [2])
    assert [r.push_id for r in sender.poll()] == ["p", "p"]


def test_a_checksum_finds_what_corrupt_does(pools):
    _, source, target, handle = pools
    sender, _ = faulty(pools, corrupt=1.0, max_faults=1)
    sender.push("p", handle, [1, 3], [2, 5])
    assert [r.error for r in sender.poll()] == [None]
    assert checksum_blocks(source, [1, 3]) != checksum_blocks(target, [2, 5])
    sender.push("again", handle, [1, 3], [2, 5])
    assert checksum_blocks(source, [1, 3]) == checksum_blocks(target, [2, 5])


def test_the_same_seed_plays_the_same_faults(pools):
    def play(seed):
        sender, _ = faulty(pools, drop=0.2, fail=0.2, duplicate=0.2, seed=seed)
        for i in range(50):
            sender.push(str(i), pools[3], [1], [2])
        return dict(sender.counts), [r.push_id for r in sender.poll()]

    assert play(3) == play(3)
    assert play(3) != play(4)
