"""Attention of one new token a sequence over its paged KV cache."""

import math
import struct
from dataclasses import dataclass
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

MAX_GROUP = 16  # query heads a kv head
_PARAMS = struct.Struct("9Q3q7if")  # struct Params in paged_decode.cu
_STATIC_SHARED_BYTES = 2048  # struct Shared and what the hardware reserves for each CTA, rounded up


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How a CTA is built: each of ``num_warps`` has a ring of ``num_stages`` tiles of ``tile_keys`` keys and values.

    ``min_tiles``: a CTA takes at least so many tiles, so that short contexts are not split to dust.
    """

    tile_keys: int
    num_warps: int
    num_stages: int
    ctas_per_sm: int = 1
    min_tiles: int = 4

    def ring_bytes(self, head_dim: int) -> int:
        return self.num_warps * self.num_stages * self.tile_keys * head_dim * 2 * 2


def choose_config(head_dim: int, shared_bytes: int) -> DecodeConfig:
    """Four warps, stages of 16 KiB, and as many stages as ``shared_bytes`` (a CTA's limit) hold, three at most."""
    num_warps, tile_keys = 4, 4096 // head_dim
    while num_warps * tile_keys * head_dim * 4 + _STATIC_SHARED_BYTES > shared_bytes // 2 and tile_keys > 16:
        tile_keys //= 2  # two stages at least
    stage_bytes = DecodeConfig(tile_keys, num_warps, 1).ring_bytes(head_dim)
    return DecodeConfig(tile_keys, num_warps, max(1, min((shared_bytes - _STATIC_SHARED_BYTES) // stage_bytes, 3)))


_HOPPER_SHARED_BYTES = 227 * 1024


def _spec(scalar: str, head_dim: int, head_tiles: int, config: DecodeConfig) -> KernelSpec:
    return spec(
        "paged_decode.cu",
        "paged_decode_kernel",
        SCALAR=scalar,
        HEAD_DIM=head_dim,
        HEAD_TILES=head_tiles,
        TILE_KEYS=config.tile_keys,
        NUM_WARPS=config.num_warps,
        NUM_STAGES=config.num_stages,
    )


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, head_dim, head_tiles, choose_config(head_dim, _HOPPER_SHARED_BYTES))
    for scalar in SCALAR_NAMES.values()
    for head_dim in HEAD_DIMS
    for head_tiles in (1, 2)
)


@dataclass(frozen=True, slots=True)
class DecodeWorkspace:
    """Partial results of items that several CTAs share; one launch at a time may use it (one a stream is enough).

    partial_out [2 * CTAs, group, D] and partial_state [2 * CTAs, group, 2] float32; arrivals [CTAs] int32, zero between
    launches.
    """

    partial_out: torch.Tensor
    partial_state: torch.Tensor
    arrivals: torch.Tensor

    @classmethod
    def allocate(cls, group: int, head_dim: int, device: torch.device, ctas_per_sm: int = 1) -> "DecodeWorkspace":
        """For any batch and context of this many query heads a kv head."""
        num_ctas = jit.num_sms(_index(device)) * ctas_per_sm
        return cls(
            torch.empty(2 * num_ctas, group, head_dim, dtype=torch.float32, device=device),
            torch.empty(2 * num_ctas, group, 2, dtype=torch.float32, device=device),
            torch.zeros(num_ctas, dtype=torch.int32, device=device),
        )

    def check(self, group: int, head_dim: int) -> None:
        if self.partial_state.shape[1] < group or self.partial_out.shape[2] < head_dim:
            raise ValueError(f"workspace is for {list(self.partial_out.shape[1:])}, got group {group}, dim {head_dim}")


def _num_ctas(num_items: int, limit: int) -> int:
    """As many CTAs as fit, or a few less if then equal contexts are cut at their ends only (3 us on an H200)."""
    aligned = limit // num_items * num_items
    return aligned if aligned * 16 >= limit * 15 else limit


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@cache
def _default_config(head_dim: int, device_index: int) -> DecodeConfig:
    return choose_config(head_dim, jit.max_shared_bytes(device_index))


@cache
def _kernel(scalar: str, head_dim: int, head_tiles: int, config: DecodeConfig, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(scalar, head_dim, head_tiles, config), device)


def paged_decode(
    q: torch.Tensor,
    kv: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float | None = None,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    workspace: DecodeWorkspace | None = None,
    pdl: bool = False,
    config: DecodeConfig | None = None,
) -> torch.Tensor:
    """softmax(scale * q K^T) V for one token a sequence; returns out [B, Hq, D] in q's dtype.

    q [B, Hq, D] bf16 or fp16, D in 64, 128, 256, up to 16 query heads a kv head; kv [num_blocks, 2, Hk, block_size, D];
    block_tables [B, M] int32; context_lens [B] int32, this token included, 0 for padding (whose rows of ``out`` stay as they are).
    ``lse`` [B, Hq] float32 receives the log of the sum of exponentials. ``scale``: default 1 / sqrt(D).

    The launch depends on shapes only: captured in a graph, it stays balanced when contexts grow. With ``pdl``, KV of
    earlier tokens, block_tables and context_lens are read before the predecessor ends, so nothing but q and the newest
    token's KV may come from it; the predecessor must itself have waited for what precedes it (rope_store does).
    Split over the context as in Flash-Decoding and Stream-K (arXiv 2301.03598).
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format) if out is None else out
    _check(q, kv, block_tables, context_lens, out, lse)
    num_seqs, num_q_heads, head_dim = q.shape
    num_kv_heads, block_size = kv.shape[2:4]
    group = num_q_heads // num_kv_heads
    if num_seqs == 0:
        return out
    config = config or _default_config(head_dim, _index(q.device))
    workspace = workspace or DecodeWorkspace.allocate(group, head_dim, q.device, config.ctas_per_sm)
    workspace.check(group, head_dim)
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    params = _PARAMS.pack(
        q.data_ptr(),
        kv.data_ptr(),
        block_tables.data_ptr(),
        context_lens.data_ptr(),
        out.data_ptr(),
        0 if lse is None else lse.data_ptr(),
        workspace.partial_out.data_ptr(),
        workspace.partial_state.data_ptr(),
        workspace.arrivals.data_ptr(),
        q.stride(0),
        out.stride(0),
        kv.stride(0),
        num_seqs,
        num_q_heads,
        num_kv_heads,
        group,
        block_size.bit_length() - 1,
        block_tables.stride(0),
        config.min_tiles,
        scale * math.log2(math.e),
    )
    kernel = _kernel(SCALAR_NAMES[q.dtype], head_dim, 1 if group <= 8 else 2, config, q.device)
    grid = (_num_ctas(num_seqs * num_kv_heads, workspace.arrivals.numel()), 1, 1)
    kernel.launch(grid, (32 * config.num_warps, 1, 1), (params,), smem_bytes=config.ring_bytes(head_dim), pdl=pdl)
    return out


def _check(
    q: torch.Tensor,
    kv: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
) -> None:
    num_kv_heads, _, head_dim = check_kv(kv, q)
    scalar_name(q, "q")
    check_shape(q, (None, None, head_dim), "q")
    check_rows(q, "q")
    num_seqs, num_q_heads = q.shape[:2]
    if num_q_heads % num_kv_heads or not 1 <= num_q_heads // num_kv_heads <= MAX_GROUP:
        raise ValueError(
            f"query heads must be 1 to {MAX_GROUP} times the kv heads, got {num_q_heads} and {num_kv_heads}"
        )
    check_shape(block_tables, (num_seqs, None), "block_tables")
    check_shape(context_lens, (num_seqs,), "context_lens")
    check_index(block_tables, (torch.int32,), q, "block_tables")
    check_index(context_lens, (torch.int32,), q, "context_lens")
    check_shape(out, tuple(q.shape), "out")
    check_like(out, q, "out")
    check_rows(out, "out")
    if lse is not None and (lse.dtype != torch.float32 or lse.shape != q.shape[:2] or not lse.is_contiguous()):
        raise ValueError(f"lse must be contiguous float32 {list(q.shape[:2])}, got {lse.dtype} {list(lse.shape)}")
