"""Attention of chunks of new tokens on paged context: FlashAttention-2 on any GPU, FlashAttention-3 on Hopper.

Shape legend: T tokens, B sequences, H query heads, K kv heads, D head dim, M blocks per table row, S block size.
"""

import math
from typing import Literal

import torch

from nanopd.kernels import jit
from nanopd.kernels.nvrtc import KernelSpec, freeze_defines
from nanopd.kernels.tensor_map import tensor_map

Path = Literal["generic", "sm90"]

HEAD_DIMS = (64, 128, 256)
BLOCK_SIZES = (8, 16, 32, 64)
_SCALARS = {torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}

# The kernels' tiles: query rows (tokens times the query heads of one kv head), and keys.
_ROWS: dict[Path, int] = {"generic": 64, "sm90": 128}
_KEYS: dict[Path, dict[int, int]] = {"generic": {64: 64, 128: 64, 256: 32}, "sm90": {64: 128, 128: 128, 256: 64}}


def _spec(path: Path, scalar: str, head_dim: int, block_size: int, group: int) -> KernelSpec:
    defines = freeze_defines({"SCALAR": scalar, "HEAD_DIM": head_dim, "BLOCK_SIZE": block_size, "GROUP": group})
    if path == "generic":
        return KernelSpec("paged_prefill.cu", "paged_prefill_kernel", defines)
    return KernelSpec("sm90_paged_prefill.cu", "sm90_paged_prefill_kernel", defines, min_arch=90, max_arch=90)


# Every head dim, type and block size at one group size, and the group sizes of the model families at the default block.
_COVERED = dict.fromkeys(
    [(scalar, dim, size, 4) for scalar in _SCALARS.values() for dim in HEAD_DIMS for size in BLOCK_SIZES]
    + [("__nv_bfloat16", dim, 16, group) for dim in (64, 128) for group in (1, 2, 3, 4, 5, 6, 7, 8)]
)
CONFIGS = tuple(_spec(path, *config) for path in _ROWS for config in _COVERED)


def paged_prefill(
    q_THD: torch.Tensor,
    kv_layer: torch.Tensor,
    block_tables_BM: torch.Tensor,
    cu_q_lens: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    max_q_len: int,
    max_context_len: int,
    scale: float,
    out: torch.Tensor,
    workspace: torch.Tensor | None = None,
    path: Path | None = None,
) -> None:
    """Causal attention of each sequence's new tokens on its whole context, written to ``out``.

    Query i of sequence b sees keys [0, context_lens[b] - q_len_b + i]; the new tokens' K and V are already cached.

    q_THD: [T, H, D] bf16 or fp16; heads contiguous, rows may be strided (a slice of the fused projection).
    kv_layer: [num_blocks, 2, K, S, D] of the same type, each block contiguous; index 0 K, 1 V. H is a multiple of K.
    block_tables_BM: [B, M] int32. cu_q_lens: [B + 1] int32, where each sequence's rows of q begin and end.
    context_lens: [B] int32, new tokens included; 0 marks padding, whose rows are left as they are.
    max_q_len, max_context_len: bounds known on the host; lengths themselves are read on the device only.
    scale: factor of the scores before softmax, usually D ** -0.5.
    out: [T, H, D] like q. Rows outside every sequence are left as they are.
    workspace: one int32, zero before the first use and zero again after each; not shared between streams. Without it
        one is allocated per call.
    path: the kernel to use, by default the fastest the device has.

    Sequences start in the order given: heaviest first balances best. May be captured in a CUDA graph.
    """
    _check(q_THD, kv_layer, block_tables_BM, cu_q_lens, context_lens, out)
    num_tokens, num_heads, head_dim = q_THD.shape
    num_kv_heads, block_size = kv_layer.shape[2:4]
    num_seqs, group = context_lens.shape[0], num_heads // num_kv_heads
    if max_context_len > block_tables_BM.shape[1] * block_size:
        raise ValueError(
            f"block_tables must cover max_context_len: {block_tables_BM.shape[1]} blocks of {block_size}, "
            f"got {max_context_len}"
        )
    path = path or ("sm90" if torch.cuda.get_device_capability(q_THD.device)[0] == 9 else "generic")
    if group > _ROWS[path]:
        raise ValueError(f"query heads per kv head must be at most {_ROWS[path]}, got {group}")
    if num_tokens == 0 or num_seqs == 0:
        return
    tokens_per_tile = _ROWS[path] // group
    tiles_per_seq = -(-max_q_len // tokens_per_tile)
    # No batch within these bounds has more tiles, whatever its lengths.
    max_tiles = min(num_tokens // tokens_per_tile + num_seqs, num_seqs * tiles_per_seq) * num_kv_heads
    kernel = jit.load_spec(_spec(path, _SCALARS[q_THD.dtype], head_dim, block_size, group), q_THD.device)
    batch = (block_tables_BM, cu_q_lens, context_lens, out)
    sizes = [jit.i32(n) for n in (block_tables_BM.stride(0), num_seqs, num_kv_heads)]
    scale_log2 = jit.f32(scale * math.log2(math.e))
    kv_tile_bytes = _KEYS[path][head_dim] * head_dim * 2 * q_THD.dtype.itemsize
    if path == "generic":
        strides = [jit.i64(x.stride(0)) for x in (q_THD, out, kv_layer)]
        kernel.launch(
            grid=(max_tiles, 1, 1),
            block=(128, 1, 1),
            args=(q_THD, kv_layer, *batch, *strides, *sizes, scale_log2),
            smem_bytes=2 * kv_tile_bytes,
        )
    else:
        if workspace is None:
            workspace = torch.zeros(1, dtype=torch.int32, device=q_THD.device)
        maps = _query_map(q_THD, group, tokens_per_tile), _kv_map(kv_layer)
        q_tile_bytes = _ROWS[path] * head_dim * q_THD.dtype.itemsize
        kernel.launch(
            grid=(min(jit.num_sms(kernel.device_index), max_tiles), 1, 1),
            block=(384, 1, 1),
            args=(*maps, *batch, workspace, jit.i64(out.stride(0)), *sizes, scale_log2),
            smem_bytes=q_tile_bytes + 2 * kv_tile_bytes + 2048,  # barriers, and room to align
        )


def _query_map(q_THD: torch.Tensor, group: int, tokens_per_tile: int) -> bytes:
    """Boxes of the query heads of one kv head, for the tokens of one tile, 64 columns wide."""
    num_tokens, num_heads, head_dim = q_THD.shape
    dims, strides = (head_dim, num_heads, num_tokens), (head_dim, q_THD.stride(0))
    return tensor_map(q_THD.data_ptr(), q_THD.dtype, dims, strides, (64, group, tokens_per_tile))


def _kv_map(kv_layer: torch.Tensor) -> bytes:
    """Boxes of one head's K (or V) in one block, 64 columns wide; K and V of all heads are rows of the block."""
    num_blocks, _, num_kv_heads, block_size, head_dim = kv_layer.shape
    dims, strides = (head_dim, 2 * num_kv_heads * block_size, num_blocks), (head_dim, kv_layer.stride(0))
    return tensor_map(kv_layer.data_ptr(), kv_layer.dtype, dims, strides, (64, block_size, 1))


def _check(
    q_THD: torch.Tensor,
    kv_layer: torch.Tensor,
    block_tables_BM: torch.Tensor,
    cu_q_lens: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
) -> None:
    _, num_heads, head_dim = q_THD.shape
    _, two, num_kv_heads, block_size, kv_head_dim = kv_layer.shape
    if q_THD.dtype not in _SCALARS or not q_THD.dtype == kv_layer.dtype == out.dtype:
        raise ValueError(
            f"q, kv and out must share bfloat16 or float16, got {q_THD.dtype}, {kv_layer.dtype}, {out.dtype}"
        )
    if head_dim not in HEAD_DIMS or kv_head_dim != head_dim:
        raise ValueError(f"head dim must be one of {HEAD_DIMS} in q and kv, got {head_dim} and {kv_head_dim}")
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size must be one of {BLOCK_SIZES}, got {block_size}")
    if two != 2 or num_heads % num_kv_heads or not kv_layer[0].is_contiguous():
        raise ValueError(
            f"kv must be [num_blocks, 2, K, S, D] with contiguous blocks and K dividing {num_heads}, "
            f"got {tuple(kv_layer.shape)} with strides {kv_layer.stride()}"
        )
    if out.shape != q_THD.shape or any(x.stride()[1:] != (head_dim, 1) or x.stride(0) % 8 for x in (q_THD, out)):
        raise ValueError(
            f"q and out must be [T, H, D] with contiguous heads and rows a multiple of 8 apart, "
            f"got {tuple(q_THD.shape)} {q_THD.stride()} and {tuple(out.shape)} {out.stride()}"
        )
    if not block_tables_BM.dtype == cu_q_lens.dtype == context_lens.dtype == torch.int32:
        raise ValueError("block_tables, cu_q_lens and context_lens must be int32")
    num_seqs = context_lens.shape[0]
    if block_tables_BM.shape[0] != num_seqs or cu_q_lens.shape[0] != num_seqs + 1 or block_tables_BM.stride(-1) != 1:
        raise ValueError(
            f"block_tables must have one contiguous row and cu_q_lens one entry more than {num_seqs} sequences, "
            f"got {tuple(block_tables_BM.shape)} and {tuple(cu_q_lens.shape)}"
        )
    if any(x.data_ptr() % 16 for x in (q_THD, kv_layer, out)) or any(x.device != q_THD.device for x in (kv_layer, out)):
        raise ValueError("q, kv and out must start at a multiple of 16 bytes on one device")
