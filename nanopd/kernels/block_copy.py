"""Copies of whole KV blocks: copy-on-write, gather, scatter and push to another pool, all layers in one launch."""

import struct
from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.nvrtc import KernelSpec, spec

_THREADS = 512
_CHUNK_BYTES = _THREADS * 8 * 16  # kChunkBytes in block_copy.cu
_PARAMS = struct.Struct("4Q4q4i")  # struct Params
_CTAS_PER_SM = 2

_SPEC = spec("block_copy.cu", "block_copy_kernel")
CONFIGS: tuple[KernelSpec, ...] = (_SPEC,)


@cache
def _kernel(device: torch.device) -> jit.Kernel:
    return jit.load_spec(_SPEC, device)


def move_blocks(
    src_pool: torch.Tensor,
    src_ids: torch.Tensor | None,
    dst_pool: torch.Tensor,
    dst_ids: torch.Tensor | None,
    layer_range: tuple[int, int] | None = None,
    max_ctas: int | None = None,
) -> None:
    """dst_pool[layer, dst_ids[i]] = src_pool[layer, src_ids[i]] for layers [start, stop) of ``layer_range``.

    Pools [L, num_blocks, ...] of any dtype, each (layer, block) piece contiguous and a multiple of 16 bytes; they may
    be the same tensor (copy-on-write) or lie on different devices with peer access, the launch being on that of the
    ids (of src_pool without ids). ids [n] int32 on the launching device; None means 0, 1, 2, ..., so that a staging
    buffer [L, n, ...] gathers and scatters; a negative id skips its pair. No block may be both read and written.
    ``layer_range`` defaults to all. ``max_ctas`` bounds the SMs used, so that a push does not slow a prefill beside it.
    """
    device = next((ids.device for ids in (src_ids, dst_ids) if ids is not None), src_pool.device)
    piece_bytes = _piece_bytes(src_pool, "src_pool")
    if piece_bytes != _piece_bytes(dst_pool, "dst_pool") or src_pool.shape[0] != dst_pool.shape[0]:
        raise ValueError(
            f"pools must agree in layers and piece size, got {list(src_pool.shape)} and {list(dst_pool.shape)}"
        )
    lengths = [ids.shape[0] for ids in (src_ids, dst_ids) if ids is not None]
    lengths = lengths or [min(src_pool.shape[1], dst_pool.shape[1])]
    if len(set(lengths)) != 1:
        raise ValueError(f"src_ids and dst_ids must have the same length, got {lengths[0]} and {lengths[1]}")
    for name, ids in (("src_ids", src_ids), ("dst_ids", dst_ids)):
        if ids is not None and (ids.dtype != torch.int32 or not ids.is_contiguous() or ids.device != device):
            raise ValueError(f"{name} must be contiguous int32 on {device}, got {ids.dtype} on {ids.device}")
    first, last = layer_range or (0, src_pool.shape[0])
    if not 0 <= first <= last <= src_pool.shape[0]:
        raise ValueError(f"layer_range must lie within [0, {src_pool.shape[0]}), got [{first}, {last})")
    num_chunks = (last - first) * lengths[0] * -(-piece_bytes // _CHUNK_BYTES)
    if num_chunks == 0:
        return
    src, dst = src_pool[first:last], dst_pool[first:last]
    params = _PARAMS.pack(
        src.data_ptr(),
        dst.data_ptr(),
        0 if src_ids is None else src_ids.data_ptr(),
        0 if dst_ids is None else dst_ids.data_ptr(),
        *(stride * pool.element_size() for pool in (src, dst) for stride in pool.stride()[:2]),
        last - first,
        lengths[0],
        piece_bytes,
        0,
    )
    kernel = _kernel(device)
    num_ctas = min(num_chunks, jit.num_sms(kernel.device_index) * _CTAS_PER_SM, max_ctas or num_chunks)
    kernel.launch((num_ctas, 1, 1), (_THREADS, 1, 1), (params,))


def _piece_bytes(pool: torch.Tensor, name: str) -> int:
    piece = pool[0, 0] if pool.shape[0] and pool.shape[1] else pool.new_empty(pool.shape[2:])
    num_bytes = piece.numel() * pool.element_size()
    starts = (pool.data_ptr(), *(stride * pool.element_size() for stride in pool.stride()[:2]))
    if not piece.is_contiguous() or any(number % 16 for number in (num_bytes, *starts)):
        raise ValueError(
            f"{name} must have contiguous [layer, block] pieces at multiples of 16 bytes, "
            f"got strides {pool.stride()} of {list(pool.shape)} {pool.dtype}"
        )
    return num_bytes
