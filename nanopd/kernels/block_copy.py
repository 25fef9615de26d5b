"""Copies of whole KV blocks: copy-on-write, gather, scatter and push to another pool, all layers in one launch."""

import struct
from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import torch

from nanopd.kernels import jit
from nanopd.kernels.nvrtc import KernelSpec, spec

_THREADS = 512
_CHUNK_BYTES = _THREADS * 8 * 16  # kChunkBytes in block_copy.cu
_PARAMS = struct.Struct("4Q4q4i")  # struct Params
_CTAS_PER_SM = 2

_SPEC = spec("block_copy.cu", "block_copy_kernel")
CONFIGS: tuple[KernelSpec, ...] = (_SPEC,)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where the (layer, block) pieces of a pool lie, for memory that torch does not know: a peer's pool mapped into this process."""

    address: int
    num_layers: int
    num_blocks: int
    piece_bytes: int
    layer_stride: int  # bytes
    block_stride: int

    @classmethod
    def contiguous(cls, address: int, num_layers: int, num_blocks: int, piece_bytes: int) -> Self:
        """Of a pool [L, num_blocks, ...] without gaps."""
        return cls(address, num_layers, num_blocks, piece_bytes, num_blocks * piece_bytes, piece_bytes)

    @classmethod
    def of(cls, pool: torch.Tensor, name: str = "pool") -> Self:
        """Of a pool tensor [L, num_blocks, ...]. Raises ValueError unless its pieces are contiguous."""
        piece = pool[0, 0] if pool.shape[0] and pool.shape[1] else pool.new_empty(pool.shape[2:])
        layer_stride, block_stride = (stride * pool.element_size() for stride in pool.stride()[:2])
        num_bytes = piece.numel() * pool.element_size()
        if not piece.is_contiguous() or any(n % 16 for n in (num_bytes, pool.data_ptr(), layer_stride, block_stride)):
            raise ValueError(
                f"{name} must have contiguous [layer, block] pieces at multiples of 16 bytes, "
                f"got strides {pool.stride()} of {list(pool.shape)} {pool.dtype}"
            )
        return cls(pool.data_ptr(), pool.shape[0], pool.shape[1], num_bytes, layer_stride, block_stride)

    def layers(self, first: int, last: int) -> Self:
        """Layers [first, last) of them."""
        return replace(self, address=self.address + first * self.layer_stride, num_layers=last - first)


@cache
def _kernel(device: torch.device) -> jit.Kernel:
    return jit.load_spec(_SPEC, device)


def move_blocks(
    src_pool: torch.Tensor | Pieces,
    src_ids: torch.Tensor | None,
    dst_pool: torch.Tensor | Pieces,
    dst_ids: torch.Tensor | None,
    layer_range: tuple[int, int] | None = None,
    max_ctas: int | None = None,
) -> None:
    """dst_pool[layer, dst_ids[i]] = src_pool[layer, src_ids[i]] for layers [start, stop) of ``layer_range``.

    Pools [L, num_blocks, ...] of any dtype, each (layer, block) piece contiguous and a multiple of 16 bytes; they may
    be the same tensor (copy-on-write) or lie on different devices with peer access, the launch being on that of the
    ids (of the pool that is a tensor without ids). ids [n] int32 on the launching device; None means 0, 1, 2, ..., so
    that a staging buffer [L, n, ...] gathers and scatters; a negative id skips its pair. No block may be both read and
    written. ``layer_range`` defaults to all. ``max_ctas`` bounds the SMs used, so that a push does not slow a prefill
    beside it.
    """
    device = next(t.device for t in (src_ids, dst_ids, src_pool, dst_pool) if isinstance(t, torch.Tensor))
    src = src_pool if isinstance(src_pool, Pieces) else Pieces.of(src_pool, "src_pool")
    dst = dst_pool if isinstance(dst_pool, Pieces) else Pieces.of(dst_pool, "dst_pool")
    if (src.num_layers, src.piece_bytes) != (dst.num_layers, dst.piece_bytes):
        raise ValueError(
            f"pools must agree in layers and piece size, got {src.num_layers} of {src.piece_bytes} bytes "
            f"and {dst.num_layers} of {dst.piece_bytes}"
        )
    lengths = [ids.shape[0] for ids in (src_ids, dst_ids) if ids is not None]
    lengths = lengths or [min(src.num_blocks, dst.num_blocks)]
    if len(set(lengths)) != 1:
        raise ValueError(f"src_ids and dst_ids must have the same length, got {lengths[0]} and {lengths[1]}")
    for name, ids in (("src_ids", src_ids), ("dst_ids", dst_ids)):
        if ids is not None and (ids.dtype != torch.int32 or not ids.is_contiguous() or ids.device != device):
            raise ValueError(f"{name} must be contiguous int32 on {device}, got {ids.dtype} on {ids.device}")
    first, last = layer_range or (0, src.num_layers)
    if not 0 <= first <= last <= src.num_layers:
        raise ValueError(f"layer_range must lie within [0, {src.num_layers}), got [{first}, {last})")
    num_chunks = (last - first) * lengths[0] * -(-src.piece_bytes // _CHUNK_BYTES)
    if num_chunks == 0:
        return
    src, dst = src.layers(first, last), dst.layers(first, last)
    params = _PARAMS.pack(
        src.address,
        dst.address,
        0 if src_ids is None else src_ids.data_ptr(),
        0 if dst_ids is None else dst_ids.data_ptr(),
        src.layer_stride,
        src.block_stride,
        dst.layer_stride,
        dst.block_stride,
        src.num_layers,
        lengths[0],
        src.piece_bytes,
        0,
    )
    kernel = _kernel(device)
    num_ctas = min(num_chunks, jit.num_sms(kernel.device_index) * _CTAS_PER_SM, max_ctas or num_chunks)
    kernel.launch((num_ctas, 1, 1), (_THREADS, 1, 1), (params,))
