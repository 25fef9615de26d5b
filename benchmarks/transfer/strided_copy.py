"""Another way to write scattered blocks into a peer's pool: by the copy engine, which takes no SM from a prefill.

A block's pieces lie at equal distances in both pools, one per layer, so that a block is one strided copy, [L, piece]: a pool of depth L, height
num_blocks and width piece_bytes, of which one row is copied at every depth. Many blocks are one call, cuMemcpy3DBatchAsync (CUDA 13).
A copy per piece instead reaches a fifth of the rate (``sweep``).
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from nanopd.errors import TransferError
from nanopd.kv_cache.moves import Pieces
from nanopd.kv_transfer.peer_to_peer import map_pool
from nanopd.kv_transfer.transport import PoolHandle

_POINTER = 1  # CU_MEMCPY_OPERAND_TYPE_POINTER
_STREAM_ORDER = 1  # CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
_BLOCKS_PER_CALL = 32  # the engine copies them while the next are described
_OPERAND = [("type", "<u8"), ("address", "<u8"), ("width", "<u8"), ("height", "<u8"), ("location", "<u8")]
_OPERATION = np.dtype(  # CUDA_MEMCPY3D_BATCH_OP
    [("source", _OPERAND), ("target", _OPERAND), ("extent", "<u8", 3), ("order", "<u4"), ("flags", "<u4")]
)


class StridedCopies:
    """Puts copies on streams of the current device. By ctypes and numpy: thousands of addresses in Python's lists take longer than the copy."""

    def __init__(self) -> None:
        self._copy = ctypes.CDLL("libcuda.so.1").cuMemcpy3DBatchAsync_v2
        self._copy.argtypes = [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_ulonglong, ctypes.c_void_p]

    def copy(
        self,
        source: Pieces,
        source_ids: Sequence[int],
        target: Pieces,
        target_ids: Sequence[int],
        stream: torch.cuda.Stream,
    ) -> None:
        """Blocks ``source_ids`` to as many blocks ``target_ids``. Raises TransferError."""
        for i in range(0, len(source_ids), _BLOCKS_PER_CALL):
            j = i + _BLOCKS_PER_CALL
            operations = describe_copies(source, source_ids[i:j], target, target_ids[i:j])
            result = self._copy(len(operations), operations.ctypes.data, 0, stream.cuda_stream)
            if result != 0:
                raise TransferError(f"a strided copy of {len(operations)} blocks failed: CUDA error {result}")


def describe_copies(source: Pieces, source_ids: Sequence[int], target: Pieces, target_ids: Sequence[int]) -> np.ndarray:
    """One CUDA_MEMCPY3D_BATCH_OP a block."""
    operations = np.zeros(len(source_ids), dtype=_OPERATION)
    for name, pieces, ids in (("source", source, source_ids), ("target", target, target_ids)):
        operand = operations[name]
        operand["type"] = _POINTER
        operand["address"] = np.asarray(ids, dtype=np.uint64) * pieces.block_stride + pieces.address
        operand["width"] = pieces.piece_bytes
        operand["height"] = pieces.layer_stride // pieces.piece_bytes
    operations["extent"] = (source.piece_bytes, 1, source.num_layers)
    operations["order"] = _STREAM_ORDER
    return operations


class CopyEngine:
    """Pushes to another process's pool as ``peer_to_peer`` does; a context manager."""

    def __init__(self, pool: torch.Tensor, handle: PoolHandle) -> None:
        self._source = Pieces.of(pool)
        self._peer = map_pool(handle, "copy-engine", pool.device)
        self._stream = torch.cuda.Stream(pool.device)
        self._copies = StridedCopies()

    def push(self, source_ids: list[int], target_ids: list[int]) -> float:
        """Milliseconds on the device."""
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record(self._stream)
        self._copies.copy(self._source, source_ids, self._peer.blocks, target_ids, self._stream)
        ended.record(self._stream)
        while not ended.query():
            pass
        return started.elapsed_time(ended)

    def __enter__(self) -> "CopyEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.synchronize()
        self._peer.memory.close()
