"""The ways that ``sweep`` compares: two GPUs, one process, Qwen3-8B's blocks of 36 layers and 64 KiB a piece."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.transfer.strided_copy import StridedCopies
from nanopd.kv_cache.moves import Pieces, move_blocks
from nanopd.kv_transfer.block_ids import IdBuffer
from nanopd.kv_transfer.device_memory import DeviceMemory
from nanopd.profiler.pool_process import fill

LAYERS, PIECE_BYTES, BLOCK_SIZE = 36, 64 << 10, 16
SENDER, RECEIVER = torch.device("cuda", 0), torch.device("cuda", 1)

Ids = list[int]
Issue = Callable[[Ids, Ids], None]  # puts a copy on the variant's stream


@dataclass(frozen=True, slots=True)
class Pools:
    source: Pieces  # on the sender
    target: Pieces  # on the receiver, mapped by the sender
    source_seen: Pieces  # the source, mapped by the receiver
    target_seen: Pieces  # the target, as the receiver itself maps it
    tensors: tuple[torch.Tensor, torch.Tensor]  # [L, num_blocks, piece_bytes]


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    issue: Issue
    stream: torch.cuda.Stream
    side: bool = True  # whether the products beside it are worth measuring


def make_pools(num_blocks: int) -> Pools:
    num_bytes = LAYERS * num_blocks * PIECE_BYTES
    for device in (RECEIVER, SENDER):
        torch.zeros(1, device=device)
    memories = [DeviceMemory.create(device, num_bytes) for device in (SENDER, RECEIVER)]
    seen = [
        DeviceMemory.from_descriptor(memory.descriptor(), memory.num_bytes, device)
        for memory, device in zip(memories, (RECEIVER, SENDER), strict=True)
    ]
    pieces = [
        Pieces.contiguous(memory.address, LAYERS, num_blocks, PIECE_BYTES)
        for memory in (memories[0], seen[1], seen[0], memories[1])
    ]
    tensors = [
        torch.as_tensor(memory.tensor(), device=device)[:num_bytes].view(LAYERS, num_blocks, PIECE_BYTES)
        for memory, device in zip(memories, (SENDER, RECEIVER), strict=True)
    ]
    fill(tensors[0].view(torch.int16), 1)
    return Pools(*pieces, (tensors[0], tensors[1]))


def kernel(pools: Pools, num_ctas: int, reads: bool) -> Variant:
    """The kernel, on the sender, which writes, or on the receiver, which reads."""
    device = RECEIVER if reads else SENDER
    source, target = (pools.source_seen, pools.target_seen) if reads else (pools.source, pools.target)
    stream = torch.cuda.Stream(device, priority=-1)
    with torch.cuda.device(device), torch.cuda.stream(stream):
        ids = IdBuffer(1024, device)

    def issue(source_ids: Ids, target_ids: Ids) -> None:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            sources, targets = ids.fill(source_ids, target_ids, stream)
            move_blocks(source, sources, target, targets, max_ctas=num_ctas)

    return Variant(f"kernel{' of the receiver' if reads else ''}, {num_ctas} CTAs", issue, stream, not reads)


def divided(pools: Pools, engine_share: float, num_ctas: int) -> Variant:
    """The copy engine's strided copies, a kernel beside them for its share."""
    stream, engine_stream = (torch.cuda.Stream(SENDER, priority=-1) for _ in range(2))
    with torch.cuda.device(SENDER), torch.cuda.stream(stream):
        ids = IdBuffer(1024, SENDER)
    copies, fork, join = StridedCopies(), torch.cuda.Event(), torch.cuda.Event()

    def issue(source_ids: Ids, target_ids: Ids) -> None:
        count = len(source_ids) - round(engine_share * len(source_ids))
        with torch.cuda.device(SENDER), torch.cuda.stream(stream):
            fork.record(stream)
            if count:
                sources, targets = ids.fill(source_ids[:count], target_ids[:count], stream)
                move_blocks(pools.source, sources, pools.target, targets, max_ctas=num_ctas)
            engine_stream.wait_event(fork)
            copies.copy(pools.source, source_ids[count:], pools.target, target_ids[count:], engine_stream)
            join.record(engine_stream)
            stream.wait_event(join)

    share = f"{engine_share:.0%} by the copy engine"
    return Variant(f"{share}, the rest by {num_ctas} CTAs" if num_ctas else share, issue, stream)


def piecewise(pools: Pools) -> Variant:
    """The copy engine with a descriptor for each piece, cuMemcpyBatchAsync."""
    copy, stream = ctypes.CDLL("libcuda.so.1").cuMemcpyBatchAsync_v2, torch.cuda.Stream(SENDER, priority=-1)
    attributes = np.array([1, 0, 0, 0, 0, 0], dtype=np.int32)  # CUmemcpyAttributes: in the order of the stream

    def addresses(pieces: Pieces, ids: Ids) -> np.ndarray:
        layers = np.arange(LAYERS, dtype=np.uint64)[:, None] * np.uint64(pieces.layer_stride)
        return (layers + block_addresses(pieces, ids)).ravel()

    def issue(source_ids: Ids, target_ids: Ids) -> None:
        sources, targets = addresses(pools.source, source_ids), addresses(pools.target, target_ids)
        sizes = np.full(sources.size, PIECE_BYTES, dtype=np.uint64)
        with torch.cuda.device(SENDER):
            result = copy(
                *(ctypes.c_void_p(array.ctypes.data) for array in (targets, sources, sizes)),
                ctypes.c_size_t(sources.size),
                ctypes.c_void_p(attributes.ctypes.data),
                (ctypes.c_size_t * 1)(0),
                ctypes.c_size_t(1),
                ctypes.c_void_p(stream.cuda_stream),
            )
        assert result == 0, f"cuMemcpyBatchAsync: {result}"

    return Variant("copy engine, piece by piece", issue, stream)


def block_addresses(pieces: Pieces, ids: Ids) -> np.ndarray:
    return np.asarray(ids, dtype=np.uint64) * np.uint64(pieces.block_stride) + np.uint64(pieces.address)


def all_variants(pools: Pools) -> list[Variant]:
    shares = [
        (0.85, 4),
        (0.75, 4),
        (0.75, 8),
        (0.65, 4),
        (0.65, 8),
        (0.65, 16),
        (0.55, 8),
        (0.55, 16),
        (0.45, 16),
        (0.35, 16),
    ]
    return [
        contiguous(pools),
        *(kernel(pools, num_ctas, False) for num_ctas in (4, 8, 16, 32, 64, 132)),
        *(kernel(pools, num_ctas, True) for num_ctas in (8, 16)),
        piecewise(pools),
        divided(pools, 1.0, 0),
        *(divided(pools, *pair) for pair in shares),
    ]


def contiguous(pools: Pools) -> Variant:
    """The ceiling: as many bytes in one piece. Not what was asked for, so it is not compared."""
    cuda, stream = ctypes.CDLL("libcuda.so.1"), torch.cuda.Stream(SENDER, priority=-1)

    def issue(source_ids: Ids, _: Ids) -> None:
        with torch.cuda.device(SENDER):
            num_bytes = ctypes.c_size_t(len(source_ids) * LAYERS * PIECE_BYTES)
            ends = ctypes.c_uint64(pools.target.address), ctypes.c_uint64(pools.source.address)
            assert cuda.cuMemcpyAsync(*ends, num_bytes, ctypes.c_void_p(stream.cuda_stream)) == 0

    return Variant("contiguous, copy engine", issue, stream)
