"""Query/key norm, rotary embedding and KV store: one launch a layer between the fused projection and attention."""

import struct
from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import (
    HEAD_DIMS,
    SCALAR_NAMES,
    check_index,
    check_kv,
    check_like,
    check_rows,
    check_shape,
    scalar_name,
)
from nanopd.kernels.nvrtc import KernelSpec, spec

_WARPS_PER_CTA = 4
_HEADS_PER_LANE = 4  # kHeadsPerLane
_PARAMS = struct.Struct("8Q3q6ifi")  # struct Params in rope_store.cu


def _spec(scalar: str, head_dim: int, has_norm: bool) -> KernelSpec:
    return spec("rope_store.cu", "rope_store_kernel", SCALAR=scalar, HEAD_DIM=head_dim, HAS_NORM=has_norm)


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, head_dim, has_norm)
    for scalar in SCALAR_NAMES.values()
    for head_dim in HEAD_DIMS
    for has_norm in (False, True)
)


@cache
def _kernel(scalar: str, head_dim: int, has_norm: bool, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(scalar, head_dim, has_norm), device)


def rope_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    kv: torch.Tensor,
    slot_mapping: torch.Tensor,
    num_q_heads: int,
    q_weight: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    out: torch.Tensor | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """Normalise (if weights are given) and rotate q and k, write k and v to the cache, return q [T, Hq, D].

    qkv [T, (Hq + 2 Hk) * D] bf16 or fp16, rows may lie apart; positions [T] int64 or int32; cos_sin [max_position,
    rotary_dim] float32, cosines then sines, halves paired as in GPT-NeoX, rotary_dim <= D; kv [num_blocks, 2, Hk,
    block_size, D]; slot_mapping [T] int64, block * block_size + offset, negative for tokens that are not stored;
    q_weight, k_weight [D]. Arithmetic in float32. ``out`` may be the q part of ``qkv`` itself.
    """
    num_tokens, (num_kv_heads, block_size, head_dim) = qkv.shape[0], check_kv(kv, qkv)
    if out is None:
        out = torch.empty(num_tokens, num_q_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    _check_tokens(qkv, positions, slot_mapping, out, (num_tokens, num_q_heads, num_kv_heads, head_dim))
    _check_tables(qkv, cos_sin, q_weight, k_weight, head_dim)
    if num_tokens == 0:
        return out
    params = _PARAMS.pack(
        qkv.data_ptr(),
        positions.data_ptr(),
        cos_sin.data_ptr(),
        0 if q_weight is None else q_weight.data_ptr(),
        0 if k_weight is None else k_weight.data_ptr(),
        slot_mapping.data_ptr(),
        out.data_ptr(),
        kv.data_ptr(),
        qkv.stride(0),
        out.stride(0),
        kv.stride(0),
        num_tokens,
        num_q_heads,
        num_kv_heads,
        block_size,
        cos_sin.shape[-1],
        positions.dtype == torch.int64,
        eps,
        0,
    )
    heads_per_warp = _HEADS_PER_LANE * 256 // head_dim
    warps = num_tokens * -(-(num_q_heads + 2 * num_kv_heads) // heads_per_warp)
    kernel = _kernel(SCALAR_NAMES[qkv.dtype], head_dim, q_weight is not None, qkv.device)
    kernel.launch((-(-warps // _WARPS_PER_CTA), 1, 1), (32 * _WARPS_PER_CTA, 1, 1), (params,), pdl=pdl)
    return out


def _check_tokens(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    out: torch.Tensor,
    sizes: tuple[int, int, int, int],
) -> None:
    """What has a row for each token. ``sizes``: tokens, query heads, kv heads, head dim."""
    num_tokens, num_q_heads, num_kv_heads, head_dim = sizes
    scalar_name(qkv, "qkv")
    check_shape(qkv, (None, (num_q_heads + 2 * num_kv_heads) * head_dim), "qkv")
    check_rows(qkv, "qkv")
    check_index(positions, (torch.int64, torch.int32), qkv, "positions")
    check_index(slot_mapping, (torch.int64,), qkv, "slot_mapping")
    check_shape(positions, (num_tokens,), "positions")
    check_shape(slot_mapping, (num_tokens,), "slot_mapping")
    check_shape(out, (num_tokens, num_q_heads, head_dim), "out")
    check_like(out, qkv, "out")
    check_rows(out, "out")


def _check_tables(
    qkv: torch.Tensor,
    cos_sin: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    head_dim: int,
) -> None:
    """What all tokens share."""
    rotary_dim = cos_sin.shape[-1]
    if cos_sin.dtype != torch.float32 or not cos_sin.is_contiguous() or rotary_dim % 16 or rotary_dim > head_dim:
        raise ValueError(
            f"cos_sin must be contiguous float32 [max_position, rotary_dim] with rotary_dim a multiple of 16 up to "
            f"{head_dim}, got {cos_sin.dtype} {list(cos_sin.shape)}"
        )
    if (q_weight is None) != (k_weight is None):
        raise ValueError("q_weight and k_weight must be given together")
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        if weight is not None:
            check_shape(weight, (head_dim,), name)
            check_like(weight, qkv, name)
