"""The order of transports, and what happens when one fails, with senders that do as they are told."""

import logging
from functools import partial

import pytest
import torch

from nanopd.errors import TransferError
from nanopd.kv_transfer import link
from nanopd.kv_transfer.failover import FailoverSender
from nanopd.kv_transfer.link import Link, rank_by_probe
from nanopd.kv_transfer.transport import PoolHandle, PushResult

HERE = PoolHandle("cuda", "here", 1, 8, 4, 1, 1, "float32", "cuda:0")
THERE = PoolHandle("cuda", "there", 1, 8, 16, 8, 128, "bfloat16", "cuda:1")


class FakeSender:
    """Reports what the test puts into ``results``; ``refuses`` pushes, or probes at ``gb_s`` (None: fails)."""

    def __init__(self, transport, gb_s=1.0):
        self.transport = transport
        self.gb_s = gb_s
        self.refuses = False
        self.pushed, self.cancelled, self.forgotten, self.results = [], [], [], []

    def meet(self, destination):
        pass

    def push(self, push_id, destination, source_ids, destination_ids):
        if self.refuses:
            raise TransferError(f"{self.transport} refuses")
        self.pushed.append((push_id, list(source_ids), list(destination_ids)))

    def poll(self):
        results, self.results = self.results, []
        return results

    def cancel(self, push_id):
        self.cancelled.append(push_id)

    def forget(self, destination):
        self.forgotten.append(destination.name)

    def close(self):
        pass

    def probe(self, destination):
        if self.gb_s is None:
            raise TransferError("no such path")
        return self.gb_s


@pytest.fixture
def fast():
    return FakeSender("fast", 300.0)


@pytest.fixture
def slow():
    return FakeSender("slow", 40.0)


@pytest.fixture
def sender(fast, slow):
    return FailoverSender([slow, fast], lambda destination, senders: ["fast", "slow"])


def test_the_first_in_order_carries_and_is_named(sender, fast, slow):
    sender.push("p", THERE, [1, 2], [3, 4])
    assert fast.pushed == [("p", [1, 2], [3, 4])] and slow.pushed == []
    fast.results = [PushResult("p", 64, 1.0)]
    assert sender.poll() == [PushResult("p", 64, 1.0, None, "fast")]
    assert sender.poll() == []


def test_a_push_that_failed_is_carried_by_the_next_and_so_are_later_ones(sender, fast, slow):
    sender.push("p", THERE, [1], [3])
    fast.results = [PushResult("p", 0, 1.0, "link down")]
    assert sender.poll() == []
    assert slow.pushed == [("p", [1], [3])]
    sender.push("q", THERE, [2], [4])
    assert [push_id for push_id, *_ in slow.pushed] == ["p", "q"]
    slow.results = [PushResult("p", 64, 2.0), PushResult("q", 64, 2.0)]
    assert {(r.push_id, r.transport, r.error) for r in sender.poll()} == {("p", "slow", None), ("q", "slow", None)}
    sender.push("r", HERE, [0], [0])
    assert fast.pushed[-1][0] == "r", "only that destination"


def test_a_transport_that_refuses_is_passed_over(sender, fast, slow):
    fast.refuses = True
    sender.push("p", THERE, [1], [3])
    assert slow.pushed == [("p", [1], [3])]


def test_without_any_transport_left_the_push_is_an_error(sender, fast, slow):
    sender.push("p", THERE, [1], [3])
    fast.results = [PushResult("p", 0, 1.0, "link down")]
    sender.poll()
    slow.results = [PushResult("p", 0, 1.0, "no memory")]
    (result,) = sender.poll()
    assert result.error == "no transport reaches it"
    with pytest.raises(TransferError, match="no transport"):
        sender.push("q", THERE, [1], [3])
    sender.forget(THERE)
    sender.push("q", THERE, [1], [3])
    assert fast.pushed[-1][0] == "q", "a new life of the worker is met anew"


def test_a_cancelled_push_is_not_carried_again(sender, fast, slow):
    sender.push("p", THERE, [1], [3])
    sender.cancel("p")
    assert fast.cancelled == ["p"]
    fast.results = [PushResult("p", 0, 1.0, "cancelled")]
    assert [r.error for r in sender.poll()] == ["cancelled"]
    assert slow.pushed == []


def test_a_late_report_of_the_failed_transport_is_ignored(sender, fast, slow):
    sender.push("p", THERE, [1], [3])
    fast.results = [PushResult("p", 0, 1.0, "link down"), PushResult("p", 64, 1.0)]
    assert sender.poll() == []
    slow.results = [PushResult("p", 64, 2.0)]
    assert [r.transport for r in sender.poll()] == ["slow"]


def test_forgetting_reaches_every_transport_and_the_door(fast, slow):
    gone = []
    sender = FailoverSender([fast, slow], lambda destination, senders: ["fast"], gone.append)
    sender.forget(THERE)
    assert fast.forgotten == slow.forgotten == ["there"] and gone == [THERE]


@pytest.fixture
def nvlink(monkeypatch):
    monkeypatch.setattr(link, "link_between", lambda device, peer: Link("NVLink", 380.0))
    return partial(rank_by_probe, torch.device("cuda", 0), "here", THERE)


def test_the_fastest_comes_first_and_the_choice_is_logged(nvlink, fast, slow, caplog):
    caplog.set_level(logging.INFO, logger="nanopd.kv_transfer.link")
    assert nvlink([slow, fast]) == ["fast", "slow"]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.kv_link["transport"] == "fast"
    assert record.kv_link["measured_gb_s"] == {"slow": 40.0, "fast": 300.0}


def test_a_link_far_below_its_rate_is_warned_of(nvlink, slow, caplog):
    assert nvlink([slow]) == ["slow"]
    assert "far below its rate" in caplog.text


def test_a_relay_is_measured_against_pcie(nvlink, caplog):
    assert nvlink([FakeSender("pinned_relay", 40.0)]) == ["pinned_relay"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("kind", "transport", "num_bytes", "gb_s"),
    [
        ("NVLink", "peer_to_peer", 64 << 10, 380.0),
        ("NVLink", "peer_to_peer", 8 << 10, 95.0),
        ("NVLink", "pinned_relay", 64 << 10, 50.0),
        ("same device", "pinned_relay", 64 << 10, 25.0),
    ],
)
def test_what_is_expected_depends_on_link_transport_and_pieces(kind, transport, num_bytes, gb_s):
    assert link.expected_gb_s(Link(kind, 380.0), transport, num_bytes) == gb_s


def test_a_path_that_is_not_there_is_left_out_and_warned_of(nvlink, fast, caplog):
    assert nvlink([FakeSender("broken", None), fast]) == ["fast"]
    assert "no such path" in caplog.text


def test_a_pool_in_host_memory_is_reached_by_none(fast, caplog):
    there = PoolHandle("shared_memory", "1/2/there", 1, 8, 4, 1, 1, "float32", "cpu")
    assert rank_by_probe(torch.device("cuda", 0), "here", there, [fast]) == []
    assert "does not reach" in caplog.text
