"""A process with a KV pool of its own that does as it is told over a pipe: the other side of a transfer, to measure or test one.

::

    with PoolProcess(shape, "cuda:1") as peer:
        sender.push("p", peer.handle, source_ids, destination_ids)
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch

from nanopd.kv_transfer.select import open_endpoint
from nanopd.kv_transfer.transport import PoolHandle

_DIGEST_BLOCKS = 64  # at once
_PACKAGE_PARENT = Path(__file__).parents[2]


class PoolProcess:
    """Runs ``main`` of this module; a context manager. ``handle`` is its pool's, bfloat16 [L, num_blocks, 2, K, S, D]."""

    def __init__(self, shape: tuple[int, ...], device: str = "cpu", transport: str = "auto") -> None:
        options = msgspec.json.encode({"shape": shape, "device": device, "transport": transport})
        paths = [str(_PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, options.decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self.handle = msgspec.convert(self._read(), PoolHandle)

    def ask(self, what: str, **details: Any) -> Any:
        """Says what to do and returns the answer.

        ``fill(seed)`` with random bits, ``digest(ids)`` of blocks, ``push(handle, source_ids, destination_ids)`` to another pool, ``forget(handle)``.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode({"what": what, **details}) + b"\n")
        self._process.stdin.flush()
        return self._read()

    def push(self, handle: PoolHandle, source_ids: list[int], destination_ids: list[int]) -> dict[str, Any]:
        return self.ask("push", handle=asdict(handle), source_ids=source_ids, destination_ids=destination_ids)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "PoolProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return msgspec.json.decode(line)


def main() -> None:
    options = msgspec.json.decode(sys.argv[1])
    device, shape = options["device"], tuple(options["shape"])
    endpoint = open_endpoint("process", device, options["transport"])
    num_bytes = torch.Size(shape).numel() * 2
    pool = endpoint.allocate(num_bytes).view(torch.bfloat16).view(shape)
    sender = endpoint.sender(pool)

    def say(answer: Any) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()

    say(asdict(endpoint.export(pool)))
    for line in sys.stdin.buffer:
        message = msgspec.json.decode(line)
        match message["what"]:
            case "fill":
                fill(pool, message["seed"])
                say("filled")
            case "digest":
                say(digest(pool, message["ids"]))
            case "push":
                handle = msgspec.convert(message["handle"], PoolHandle)
                sender.push("p", handle, message["source_ids"], message["destination_ids"])
                while not (results := sender.poll()):
                    time.sleep(5e-5)  # a sender may have a thread that needs the interpreter
                say(asdict(results[0]))
            case "forget":
                sender.forget(msgspec.convert(message["handle"], PoolHandle))
                say("forgotten")
    sender.close()
    endpoint.close()


def fill(pool: torch.Tensor, seed: int) -> None:
    """Random bits, the same for a seed in every process with such a device."""
    generator = torch.Generator(device=pool.device).manual_seed(seed)
    flat = pool.view(torch.int16).view(-1)
    torch.randint(-(2**15), 2**15, flat.shape, dtype=torch.int16, device=pool.device, generator=generator, out=flat)
    _synchronize(pool)


def digest(pool: torch.Tensor, block_ids: Sequence[int]) -> int:
    """Of the blocks' bits in the order given: two pools' are equal if the bits are (or by a chance of 2**-64)."""
    _synchronize(pool)
    weights = torch.arange(1, 2 * pool[:, 0].nbytes // 8, 2, device=pool.device) * 0x5DEECE66D
    result = 0
    for start in range(0, len(block_ids), _DIGEST_BLOCKS):
        blocks = pool[:, list(block_ids[start : start + _DIGEST_BLOCKS])].transpose(0, 1)
        words = blocks.contiguous().view(torch.int64).flatten(1)
        for mixed in ((words ^ (words >> 29)) * weights).sum(dim=1).tolist():
            result = (result * 0x9E3779B97F4A7C15 + mixed) % 2**64
    return result


def _synchronize(pool: torch.Tensor) -> None:
    if pool.is_cuda:
        torch.cuda.synchronize(pool.device)


if __name__ == "__main__":
    main()
