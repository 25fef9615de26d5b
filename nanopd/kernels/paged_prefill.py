"""Attention of chunks of new tokens on paged context: FlashAttention-2 on any GPU, FlashAttention-3 on Hopper."""

import math
import struct
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

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
from nanopd.kernels.nvrtc import KernelSpec, freeze_defines
from nanopd.kernels.tensor_map import tensor_map

Path = Literal["generic", "sm90"]

BLOCK_SIZES = (8, 16, 32, 64)
_MAX_SPLITS = 16  # merging costs what one or two key tiles do a part
_NUM_CONSUMER_WARPS = 8
_PARAMS = struct.Struct("8Qq4if4x")  # struct Params in sm90_paged_prefill.cu


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """One compiled kernel. ``group``: query heads a kv head. ``split``: can split tiles along their keys (Hopper)."""

    path: Path
    scalar: str
    head_dim: int
    block_size: int
    group: int
    split: bool = False

    @property
    def rows(self) -> int:
        """Of a tile: query tokens times the query heads of one kv head."""
        return 128 if self.path == "sm90" else 64

    @property
    def tokens(self) -> int:
        return self.rows // self.group

    @property
    def keys(self) -> int:
        """Of a tile. 160 beat 128 by 3 % on an H200, but holds no whole number of blocks of 64."""
        if self.path == "generic":
            return 64 if self.head_dim <= 128 else 32
        return 64 if self.head_dim == 256 else 128 if self.block_size == 64 else 160

    @property
    def shared_bytes(self) -> int:
        """Two stages of K and V; on Hopper also Q, barriers, and room to align the tiles."""
        stages = 4 * self.keys * self.head_dim * 2
        return stages + self.rows * self.head_dim * 2 + 2048 if self.path == "sm90" else stages

    @property
    def spec(self) -> KernelSpec:
        shape = {"HEAD_DIM": self.head_dim, "BLOCK_SIZE": self.block_size, "GROUP": self.group, "BLOCK_N": self.keys}
        macros = {"SCALAR": self.scalar, **shape}
        if self.path == "generic":
            return KernelSpec("paged_prefill.cu", "paged_prefill_kernel", freeze_defines(macros))
        defines = freeze_defines(macros | {"SPLIT": self.split})
        return KernelSpec("sm90_paged_prefill.cu", "sm90_paged_prefill_kernel", defines, min_arch=90, max_arch=90)


def _covered() -> tuple[KernelSpec, ...]:
    """Every type, head dim and block size at one group, and the groups of the model families at the default block."""
    shapes = [(scalar, dim, size, 4) for scalar in SCALAR_NAMES.values() for dim in HEAD_DIMS for size in BLOCK_SIZES]
    shapes += [("__nv_bfloat16", dim, 16, group) for dim in (64, 128) for group in (1, 2, 3, 5, 7, 8)]
    configs = [PrefillConfig("generic", *shape) for shape in shapes]
    configs += [PrefillConfig("sm90", *shape) for shape in shapes]
    configs += [PrefillConfig("sm90", "__nv_bfloat16", dim, size, 4, True) for dim in HEAD_DIMS for size in BLOCK_SIZES]
    return tuple(config.spec for config in configs)


CONFIGS = _covered()


@dataclass(frozen=True, slots=True)
class PrefillWorkspace:
    """What CTAs share on Hopper; one launch at a time may use it (one a stream is enough).

    counter [1] and arrivals [SMs, 8] int32 are zero between launches; part_out [SMs, 128, D] and part_state
    [SMs, 8, 32, 4] float32 hold the parts of tiles that were split along their keys.
    """

    counter: torch.Tensor
    arrivals: torch.Tensor
    part_out: torch.Tensor
    part_state: torch.Tensor

    @classmethod
    def allocate(cls, head_dim: int, device: torch.device) -> "PrefillWorkspace":
        num_parts = jit.num_sms(torch.cuda.current_device() if device.index is None else device.index)
        return cls(
            torch.zeros(1, dtype=torch.int32, device=device),
            torch.zeros(num_parts, _NUM_CONSUMER_WARPS, dtype=torch.int32, device=device),
            torch.empty(num_parts, 128, head_dim, dtype=torch.float32, device=device),
            torch.empty(num_parts, _NUM_CONSUMER_WARPS, 32, 4, dtype=torch.float32, device=device),
        )


def paged_prefill(
    q: torch.Tensor,
    kv: torch.Tensor,
    block_tables: torch.Tensor,
    cu_q_lens: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    max_q_len: int,
    max_context_len: int,
    scale: float,
    out: torch.Tensor,
    workspace: PrefillWorkspace | None = None,
    pdl: bool = False,
    path: Path | None = None,
) -> None:
    """Causal attention of each sequence's new tokens on its whole context, written to ``out``.

    Query i of sequence b sees keys [0, context_lens[b] - q_len_b + i]; the new tokens' K and V are already cached.

    q: [T, Hq, D] bf16 or fp16, D in 64, 128, 256; rows may lie apart (a slice of the fused projection).
    kv: [num_blocks, 2, Hk, block_size, D], block_size 8 to 64; blocks may lie apart. Hq is a multiple of Hk.
    block_tables: [B, M] int32. cu_q_lens: [B + 1] int32, where each sequence's rows of q begin and end.
    context_lens: [B] int32, new tokens included; 0 marks padding, whose rows are left as they are.
    max_q_len, max_context_len: bounds known on the host; the lengths themselves are read on the device only, so the
        launch may be captured in a graph and replayed on any lengths within the bounds.
    scale: factor of the scores before softmax, usually D ** -0.5.
    out: [T, Hq, D] like q. Rows outside every sequence are left as they are.
    workspace: allocated when needed and not given. pdl: programmatic dependent launch; everything read may come from
        the predecessor. path: the kernel to use, by default the fastest the device has.
    """
    _check(q, kv, block_tables, cu_q_lens, context_lens, out, max_context_len)
    num_tokens, num_seqs, num_kv_heads = q.shape[0], context_lens.shape[0], kv.shape[2]
    if num_tokens == 0 or num_seqs == 0 or max_q_len == 0:
        return
    config = _config(path or _fastest_path(q.device), q.dtype, *kv.shape[3:], q.shape[1], num_kv_heads)
    max_tiles = max_tiles_per_head(num_tokens, num_seqs, max_q_len, config.tokens) * num_kv_heads
    batch = (block_tables, cu_q_lens, context_lens, out)
    sizes = (block_tables.stride(0), num_seqs, num_kv_heads)
    scale_log2 = scale * math.log2(math.e)
    if config.path == "sm90":
        workspace = workspace or PrefillWorkspace.allocate(config.head_dim, q.device)
        num_ctas = workspace.arrivals.shape[0]
        num_splits = choose_num_splits(max_tiles, num_ctas, -(-max_context_len // config.keys))
        kernel = _kernel(config, q.device, num_splits > 1)
        tensors = (*batch, workspace.counter, workspace.arrivals, workspace.part_out, workspace.part_state)
        pointers = [tensor.data_ptr() for tensor in tensors]
        params = _PARAMS.pack(*pointers, out.stride(0), *sizes, num_splits, scale_log2)
        args: list[jit.Argument] = [_query_map(q, config), _kv_map(kv), params]
        grid, num_threads = min(num_ctas, max_tiles * num_splits), 384
    else:
        kernel = _kernel(config, q.device)
        strides = (q.stride(0), out.stride(0), kv.stride(0))
        args = [q, kv, *batch, *map(jit.i64, strides), *map(jit.i32, sizes), jit.f32(scale_log2)]
        grid, num_threads = max_tiles, 128
    kernel.launch((grid, 1, 1), (num_threads, 1, 1), args, smem_bytes=config.shared_bytes, pdl=pdl)


def max_tiles_per_head(num_tokens: int, num_seqs: int, max_q_len: int, tokens_per_tile: int) -> int:
    """No batch within these bounds has more tiles, whatever its lengths: each sequence may waste part of one tile."""
    return min(num_tokens // tokens_per_tile + num_seqs, num_seqs * -(-max_q_len // tokens_per_tile))


def choose_num_splits(max_tiles: int, num_ctas: int, num_key_tiles: int) -> int:
    """Parts to split each tile into along its keys: enough to fill the GPU, none shorter than four key tiles."""
    return max(1, min(num_ctas // max_tiles, num_key_tiles // 4, _MAX_SPLITS))


@cache
def _fastest_path(device: torch.device) -> Path:
    return "sm90" if jit.capability(device)[0] == 9 else "generic"


@cache
def _config(
    path: Path, dtype: torch.dtype, block_size: int, head_dim: int, num_heads: int, num_kv_heads: int
) -> PrefillConfig:
    config = PrefillConfig(path, SCALAR_NAMES[dtype], head_dim, block_size, num_heads // num_kv_heads)
    if num_heads % num_kv_heads or not 1 <= config.group <= config.rows:
        raise ValueError(
            f"query heads must be 1 to {config.rows} times the kv heads, got {num_heads} and {num_kv_heads}"
        )
    return config


@cache
def _kernel(config: PrefillConfig, device: torch.device, split: bool = False) -> jit.Kernel:
    return jit.load_spec(replace(config, split=split).spec, device)


def _query_map(q: torch.Tensor, config: PrefillConfig) -> bytes:
    """Boxes of the query heads of one kv head, for the tokens of one tile, 64 columns wide."""
    num_tokens, num_heads, head_dim = q.shape
    dims, strides = (head_dim, num_heads, num_tokens), (head_dim, q.stride(0))
    return tensor_map(q.data_ptr(), q.dtype, dims, strides, (64, config.group, config.tokens))


def _kv_map(kv: torch.Tensor) -> bytes:
    """Boxes of one head's K (or V) in one block, as wgmma reads them: groups of 8 rows, each as panels of 64 columns.

    One box a block whatever the head dim: for small boxes the copy engine's time goes by their number, not their bytes.
    """
    num_blocks, _, num_kv_heads, block_size, head_dim = kv.shape
    panels, groups = head_dim // 64, block_size // 8
    dims, strides = (64, 8, panels, 2 * num_kv_heads * groups, num_blocks), (head_dim, 64, 8 * head_dim, kv.stride(0))
    return tensor_map(kv.data_ptr(), kv.dtype, dims, strides, (64, 8, panels, groups, 1))


def _check(
    q: torch.Tensor,
    kv: torch.Tensor,
    block_tables: torch.Tensor,
    cu_q_lens: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    max_context_len: int,
) -> None:
    _, block_size, head_dim = check_kv(kv, q)
    scalar_name(q, "q")
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size must be one of {BLOCK_SIZES}, got {block_size}")
    check_shape(q, (None, None, head_dim), "q")
    check_rows(q, "q")
    check_shape(out, tuple(q.shape), "out")
    check_like(out, q, "out")
    check_rows(out, "out")
    num_seqs = context_lens.shape[0]
    check_shape(block_tables, (num_seqs, None), "block_tables")
    check_shape(cu_q_lens, (num_seqs + 1,), "cu_q_lens")
    check_shape(context_lens, (num_seqs,), "context_lens")
    for tensor, name in ((block_tables, "block_tables"), (cu_q_lens, "cu_q_lens"), (context_lens, "context_lens")):
        check_index(tensor, (torch.int32,), q, name)
    if max_context_len > block_tables.shape[1] * block_size:
        raise ValueError(
            f"block_tables must cover max_context_len {max_context_len}, "
            f"got {block_tables.shape[1]} blocks of {block_size}"
        )
