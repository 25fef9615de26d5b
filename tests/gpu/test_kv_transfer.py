"""Both GPU transports between two processes and inside one, bit by bit; what happens when a transport or a peer fails.

Two processes on one GPU go the way that two GPUs would: a pool of another process, mapped or reached through host memory.
"""

import time

import pytest
import torch

from nanopd.errors import TransferError
from nanopd.kv_transfer.select import open_endpoint
from nanopd.profiler.pool_process import PoolProcess, digest, fill

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SHAPE = (5, 301, 2, 4, 16, 64)  # 16 KiB pieces, 80 KiB blocks: a push of 250 needs two relay slots
TRANSPORTS = ["peer_to_peer", "pinned_relay"]
PEER_DEVICE = f"cuda:{torch.cuda.device_count() - 1}"


class End:
    """An endpoint of this process."""

    def __init__(self, transport="auto", name="here", shape=SHAPE):
        self.endpoint = open_endpoint(name, "cuda:0", transport)
        num_bytes = torch.Size(shape).numel() * 2
        self.pool = self.endpoint.allocate(num_bytes).view(torch.bfloat16).view(shape)
        self.handle = self.endpoint.export(self.pool)
        self.sender = self.endpoint.sender(self.pool)

    def push(self, handle, source_ids, destination_ids, push_id="p"):
        self.sender.push(push_id, handle, source_ids, destination_ids)
        return self.wait()

    def wait(self):
        deadline = time.monotonic() + 30
        while not (results := self.sender.poll()):
            assert time.monotonic() < deadline, "the push did not end"
        return results[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sender.close()
        self.endpoint.close()


def shuffled(seed, count=250):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(SHAPE[1], generator=generator)[:count].tolist() for _ in range(2)]


@pytest.fixture(scope="module", params=TRANSPORTS)
def pair(request):
    with End(request.param) as here, PoolProcess(SHAPE, PEER_DEVICE, request.param) as there:
        yield here, there, request.param


def test_shuffled_blocks_arrive_bit_exact_in_another_process(pair):
    here, there, transport = pair
    for seed, count in enumerate((250, 1, 17)):
        source_ids, destination_ids = shuffled(seed, count)
        fill(here.pool, 10 + seed)
        there.ask("fill", seed=100 + seed)
        untouched = sorted(set(range(SHAPE[1])) - set(destination_ids))
        before = there.ask("digest", ids=untouched)
        result = here.push(there.handle, source_ids, destination_ids)
        assert (result.error, result.transport) == (None, transport)
        assert result.num_bytes == count * here.pool[:, 0].nbytes
        assert there.ask("digest", ids=destination_ids) == digest(here.pool, source_ids)
        assert there.ask("digest", ids=untouched) == before


def test_the_other_process_sends_as_well(pair):
    here, there, transport = pair
    source_ids, destination_ids = shuffled(7)
    there.ask("fill", seed=5)
    fill(here.pool, 6)
    before = here.pool.clone()
    result = there.push(here.handle, source_ids, destination_ids)
    torch.cuda.synchronize()
    assert (result["error"], result["transport"]) == (None, transport)
    assert digest(here.pool, destination_ids) == there.ask("digest", ids=source_ids)
    untouched = sorted(set(range(SHAPE[1])) - set(destination_ids))
    assert torch.equal(here.pool[:, untouched].view(torch.int16), before[:, untouched].view(torch.int16))


def test_pushes_in_a_row_are_each_reported(pair):
    here, there, _ = pair
    fill(here.pool, 3)
    source_ids, destination_ids = shuffled(9, 240)
    for i in range(12):
        piece = slice(20 * i, 20 * i + 20)
        here.sender.push(f"p{i}", there.handle, source_ids[piece], destination_ids[piece])
    results = []
    while len(results) < 12:
        results += here.sender.poll()
    assert sorted(r.push_id for r in results) == sorted(f"p{i}" for i in range(12))
    assert there.ask("digest", ids=destination_ids) == digest(here.pool, source_ids)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_inside_one_process(transport):
    with End(transport, "a") as a, End(transport, "b") as b:
        fill(a.pool, 1)
        source_ids, destination_ids = shuffled(3)
        assert a.push(b.handle, source_ids, destination_ids).error is None
        torch.cuda.synchronize()
        assert digest(b.pool, destination_ids) == digest(a.pool, source_ids)


def test_layers_may_lie_more_than_2_gib_apart():
    shape = (2, 33_000, 2, 8, 16, 128)
    with End("peer_to_peer", "a", shape) as a, End("peer_to_peer", "b", shape) as b:
        fill(a.pool, 1)
        source_ids, destination_ids = [32_999, 0, 20_000], [7, 32_998, 31_111]
        assert a.push(b.handle, source_ids, destination_ids).error is None
        torch.cuda.synchronize()
        assert digest(b.pool, destination_ids) == digest(a.pool, source_ids)


def test_auto_takes_the_faster_and_falls_back_when_it_fails(monkeypatch):
    with End() as here, PoolProcess(SHAPE, PEER_DEVICE) as there:
        fill(here.pool, 2)
        here.sender.meet(there.handle)
        source_ids, destination_ids = shuffled(4)
        first = here.push(there.handle, source_ids, destination_ids)
        assert first.transport == "peer_to_peer", "on one GPU, or over NVLink, nothing beats it"
        there.ask("fill", seed=1)

        def fail(*_args, **_kwargs):
            raise TransferError("the link is down")

        monkeypatch.setattr(here.sender._senders["peer_to_peer"], "push", fail)
        second = here.push(there.handle, source_ids, destination_ids)
        assert (second.transport, second.error) == ("pinned_relay", None)
        assert there.ask("digest", ids=destination_ids) == digest(here.pool, source_ids)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_killed_receiver_harms_nobody(transport):
    with End(transport) as here:
        with PoolProcess(SHAPE, PEER_DEVICE, transport) as there:
            fill(here.pool, 2)
            source_ids, destination_ids = shuffled(5)
            assert here.push(there.handle, source_ids, destination_ids).error is None
            for i in range(20):
                here.sender.push(f"p{i}", there.handle, source_ids, destination_ids)
            there.kill()
            results = []
            while len(results) < 20:
                results += here.sender.poll()
        here.sender.forget(there.handle)
        with pytest.raises(TransferError):
            here.push(there.handle, [0], [0])
        torch.cuda.synchronize()
        with PoolProcess(SHAPE, PEER_DEVICE, transport) as again:
            assert here.push(again.handle, source_ids, destination_ids).error is None
            assert again.ask("digest", ids=destination_ids) == digest(here.pool, source_ids)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_killed_sender_is_cut_off(transport):
    with End(transport) as here, PoolProcess(SHAPE, PEER_DEVICE, transport) as there:
        source_ids, destination_ids = shuffled(6)
        assert there.push(here.handle, source_ids, destination_ids)["error"] is None
        there.kill()
        here.sender.forget(there.handle)
        fill(here.pool, 8)
        with PoolProcess(SHAPE, PEER_DEVICE, transport) as again:
            again.ask("fill", seed=4)
            assert again.push(here.handle, source_ids, destination_ids)["error"] is None
            torch.cuda.synchronize()
            assert again.ask("digest", ids=source_ids) == digest(here.pool, destination_ids)


def test_pools_of_other_shapes_are_refused():
    with End("peer_to_peer") as here, PoolProcess((4, *SHAPE[1:]), PEER_DEVICE) as there:
        with pytest.raises(TransferError):
            here.push(there.handle, [0], [0])
