"""What every backend must do, loopback and shared memory alike."""

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

import msgspec
import pytest
import torch

from nanopd.errors import TransferError
from nanopd.kv_transfer.endpoint import num_bytes_per_block
from nanopd.kv_transfer.loopback import LoopbackHub
from nanopd.kv_transfer.shared_memory import SharedMemoryEndpoint, map_pool

L, K, S, D = 3, 2, 4, 8


@pytest.fixture(params=["loopback", "shared_memory"])
def make_endpoint(request):
    hub = LoopbackHub()
    return hub.endpoint if request.param == "loopback" else SharedMemoryEndpoint


def make_pool(endpoint, num_blocks, dtype=torch.bfloat16):
    shape = (L, num_blocks, 2, K, S, D)
    num_bytes = torch.Size(shape).numel() * dtype.itemsize
    return endpoint.allocate(num_bytes).view(dtype).view(shape)


def wait_for(sender, num_results):
    results = []
    deadline = time.monotonic() + 20
    while len(results) < num_results and time.monotonic() < deadline:
        results += sender.poll()
    assert len(results) == num_results
    return results


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scattered_blocks_arrive_bit_exact_and_nothing_else_changes(make_endpoint, dtype):
    source_end, target_end = make_endpoint("a"), make_endpoint("b")
    source = make_pool(source_end, 32, dtype)
    source.copy_(torch.randn(source.shape))
    target = make_pool(target_end, 40, dtype)
    target.fill_(7)
    handle = target_end.export(target)
    assert handle.shape == tuple(target.shape)

    generator = torch.Generator().manual_seed(1)
    source_ids = torch.randperm(32, generator=generator)[:20].tolist() + [0, 1, 2]
    destination_ids = torch.randperm(40, generator=generator)[:23].tolist()
    sender = source_end.sender(source)
    sender.push("p1", handle, source_ids[:10], destination_ids[:10])
    sender.push("p2", handle, source_ids[10:], destination_ids[10:])
    results = wait_for(sender, 2)
    sender.close()

    assert {r.push_id: r.num_bytes for r in results} == {
        "p1": 10 * num_bytes_per_block(source),
        "p2": 13 * num_bytes_per_block(source),
    }
    assert all(r.error is None for r in results)
    assert torch.equal(target[:, destination_ids], source[:, source_ids])
    untouched = sorted(set(range(40)) - set(destination_ids))
    assert bool((target[:, untouched] == 7).all())


def test_each_push_is_reported_once(make_endpoint):
    end = make_endpoint("a")
    pool = make_pool(end, 4)
    sender = end.sender(pool)
    sender.push("p", end.export(pool), [0], [1])
    wait_for(sender, 1)
    sender.cancel("p")  # too late: nothing happens
    assert sender.poll() == []
    sender.close()


def test_an_unknown_destination_raises(make_endpoint):
    end, gone = make_endpoint("a"), make_endpoint("b")
    pool = make_pool(end, 4)
    handle = gone.export(make_pool(gone, 4))
    gone.close()
    sender = end.sender(pool)
    with pytest.raises(TransferError):
        sender.push("p", handle, [0], [1])
    sender.close()


def test_shared_memory_refuses_blocks_of_another_size():
    a, b = SharedMemoryEndpoint("a"), SharedMemoryEndpoint("b")
    sender = a.sender(make_pool(a, 4))
    handle = b.export(make_pool(b, 4, torch.float32))
    with pytest.raises(TransferError, match="blocks of the two pools differ in"):
        sender.push("p", handle, [0], [1])
    sender.close()


def test_a_pool_on_a_gpu_is_out_of_reach():
    end = SharedMemoryEndpoint("a")
    sender = end.sender(make_pool(end, 4))
    handle = replace(
        end.export(make_pool(SharedMemoryEndpoint("b"), 4)), transport="cuda", name="nanopd-kv-x", device="cuda:0"
    )
    with pytest.raises(TransferError, match="does not reach"):
        sender.push("p", handle, [0], [1])
    sender.close()


def test_a_cancelled_push_is_still_reported():
    a = SharedMemoryEndpoint("a")
    num_blocks = 4096
    pool = make_pool(a, num_blocks)
    handle = a.export(pool)
    sender = a.sender(pool)
    backwards = list(range(num_blocks))[::-1]  # no two neighbours: many copies, so that cancel comes in time
    for i in range(8):
        sender.push(f"p{i}", handle, backwards, list(range(num_blocks)))
    for i in range(8):
        sender.cancel(f"p{i}")
    results = wait_for(sender, 8)
    sender.close()
    assert {r.push_id for r in results} == {f"p{i}" for i in range(8)}
    assert results[-1].error == "cancelled"


def test_another_process_writes_into_a_pool_and_its_death_leaves_nothing():
    end = SharedMemoryEndpoint("owner")
    pool = make_pool(end, 8)
    pool.zero_()
    handle = end.export(pool)
    script = (
        "import msgspec, sys, os\n"
        "from nanopd.kv_transfer.transport import PoolHandle\n"
        "from nanopd.kv_transfer.shared_memory import map_pool\n"
        "handle = msgspec.json.decode(sys.stdin.buffer.read(), type=PoolHandle)\n"
        "map_pool(handle)[:, 5] = 255\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=msgspec.json.encode(asdict(handle)), timeout=60)
    assert done.returncode == -9
    as_bytes = pool.view(torch.uint8)
    assert bool((as_bytes[:, 5] == 255).all())
    assert int(as_bytes.count_nonzero()) == as_bytes[:, 5].numel()
    assert not [name for name in os.listdir("/dev/shm") if "nanopd" in name]


def test_a_reused_descriptor_is_not_mistaken_for_the_pool():
    end = SharedMemoryEndpoint("owner")
    handle = end.export(make_pool(end, 8))
    pid, fd, label = handle.name.split("/")
    with pytest.raises(TransferError, match="is gone"):
        map_pool(replace(handle, name=f"{pid}/{fd}/{label}x"))
