"""CUtensorMap: what TMA needs to know of a tensor, encoded on the host and passed to a kernel by value."""

import ctypes
from functools import cache, lru_cache
from typing import Any

import torch

from nanopd.kernels.driver import driver

_DATA_TYPES = {torch.float16: 6, torch.bfloat16: 9}
_NO_INTERLEAVE, _SWIZZLE_128B, _PROMOTE_L2_256B, _FILL_ZEROS = 0, 3, 3, 0
_NUM_BYTES, _ALIGNMENT = 128, 64


@cache
def _encode() -> Any:
    function = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    pointer = ctypes.c_void_p
    function.argtypes = [pointer, ctypes.c_int, ctypes.c_uint32, *[pointer] * 5, *[ctypes.c_int] * 4]
    return function


@lru_cache(maxsize=4096)
def tensor_map(
    address: int, dtype: torch.dtype, dims: tuple[int, ...], strides: tuple[int, ...], box: tuple[int, ...]
) -> bytes:
    """A map that copies boxes of 64 columns into 128-byte rows, swizzled as wgmma reads them; outside lie zeros.

    ``dims`` and ``box`` count elements, innermost first; ``strides`` count elements, without the innermost, which is 1.
    ``address`` and strides in bytes must be multiples of 16; box sides at most 256.
    """
    rank = len(dims)
    assert len(strides) == rank - 1 and len(box) == rank and box[0] * dtype.itemsize == 128
    storage = ctypes.create_string_buffer(_NUM_BYTES + _ALIGNMENT)
    start = -ctypes.addressof(storage) % _ALIGNMENT
    result = _encode()(
        ctypes.addressof(storage) + start,
        _DATA_TYPES[dtype],
        rank,
        address,
        (ctypes.c_uint64 * rank)(*dims),
        (ctypes.c_uint64 * (rank - 1))(*(stride * dtype.itemsize for stride in strides)),
        (ctypes.c_uint32 * rank)(*box),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        _NO_INTERLEAVE,
        _SWIZZLE_128B,
        _PROMOTE_L2_256B,
        _FILL_ZEROS,
    )
    driver().check(result, f"encoding a tensor map of {dims} elements, strides {strides}, in boxes of {box}")
    return storage.raw[start : start + _NUM_BYTES]
