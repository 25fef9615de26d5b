"""The other process of a transfer, on the CPU."""

import torch

from nanopd.kv_transfer.select import open_endpoint
from nanopd.profiler.pool_process import PoolProcess, digest, fill

SHAPE = (3, 20, 2, 2, 4, 8)


def test_blocks_pushed_to_and_by_another_process_have_the_same_digest() -> None:
    endpoint = open_endpoint("here", "cpu")
    pool = endpoint.allocate(torch.Size(SHAPE).numel() * 2).view(torch.bfloat16).view(SHAPE)
    sender = endpoint.sender(pool)
    fill(pool, 1)
    with PoolProcess(SHAPE) as peer:
        sender.push("p", peer.handle, [4, 2, 9], [0, 19, 7])
        while not sender.poll():
            pass
        assert peer.ask("digest", ids=[0, 19, 7]) == digest(pool, [4, 2, 9])
        assert peer.ask("digest", ids=[0, 7, 19]) != digest(pool, [4, 2, 9])
        peer.ask("fill", seed=5)
        result = peer.push(endpoint.export(pool), [1, 3], [11, 12])
        assert result["error"] is None
        assert peer.ask("digest", ids=[1, 3]) == digest(pool, [11, 12])
    sender.close()
    endpoint.close()
