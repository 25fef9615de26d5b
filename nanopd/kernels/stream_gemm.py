"""Linear layers for tens and hundreds of tokens: wgmma over a stream of weights, K split over a cluster (sm_90a). Called by skinny_gemm."""

import struct
from dataclasses import dataclass
from functools import cache, lru_cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import SCALAR_NAMES
from nanopd.kernels.nvrtc import KernelSpec, spec
from nanopd.kernels.tensor_map import tensor_map

MAX_ROWS = 512  # of x: beyond, cuBLAS is as fast or faster
_NARROW_ROWS = 128  # of x, for which any tile pays
_WIDE_TILE = 160  # rows of the weight that make a tile pay for more of x
_PARAMS = struct.Struct("128s128s2Q6i24x")  # struct Params in sm90_stream_gemm.cu
# By rows of x a tile: warpgroups that multiply 64 of them, or twice 64, then a warp (or a whole group) that copies.
_NUM_THREADS = {64: 288, 128: 288, 192: 416, 256: 384}
_STAGE_K = 64
_MAX_STAGES = 10
_SHORTEST_PART = 1024  # of K, where it is split: a shorter one ends about when its ring is full for the first time
_SHARED_BYTES = 227 * 1024
_ROWS, _SPLITS = (192, 160, 128, 96, 64, 32), (1, 2)


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """``rows`` of the weight a tile, its K split over ``splits`` CTAs; the next kernel may start when ``trigger_stages``
    are left to be copied."""

    rows: int
    splits: int
    trigger_stages: int = 4

    def stage_bytes(self, x_rows: int) -> int:
        return (self.rows + x_rows) * _STAGE_K * 2

    def inbox_bytes(self, x_rows: int) -> int:
        """What the other CTAs of the cluster bring: Sums in sm90_stream_gemm.cu."""
        return (self.splits - 1) * x_rows * (self.rows // self.splits + 8) * 4

    def stages(self, x_rows: int) -> int:
        return min(_MAX_STAGES, (_SHARED_BYTES - 2048 - self.inbox_bytes(x_rows)) // self.stage_bytes(x_rows))

    def shared_bytes(self, x_rows: int) -> int:
        ring_and_barriers = self.stages(x_rows) * (self.stage_bytes(x_rows) + 16)
        return -(-ring_and_barriers // 1024) * 1024 + self.inbox_bytes(x_rows)


def x_tiles(m: int) -> tuple[int, int]:
    """Into how many tiles x is cut, and how many rows each has: as few as can be, all of one size."""
    count = -(-m // max(_NUM_THREADS))
    return count, next(rows for rows in _NUM_THREADS if count * rows >= m)


@cache
def choose_config(width: int, k: int, halves: int, num_sms: int) -> StreamConfig:
    """The tile and split that keep most SMs busy to the end. ``halves``: 2 if a tile holds gate rows and up rows.

    A tile is split in two at most: only 30 clusters of 4 (or 15 of 8) fit an H200's 132 SMs at once, so 128 CTAs would take two turns.
    """

    def merit(config: StreamConfig) -> float:
        ctas = -(-width * halves // config.rows) * config.splits
        waves = -(-ctas // num_sms)
        # Each wave pays for filling its ring, each split for adding up, small tiles for reading x more often.
        return ctas / (waves * num_sms) - 0.02 * (waves - 1) - 0.005 * config.splits - 1.0 / config.rows

    return max(
        (
            StreamConfig(rows, splits)
            for rows in _ROWS
            for splits in _SPLITS
            if (splits == 1 or k >= splits * _SHORTEST_PART) and rows // halves % (8 * splits) == 0
        ),
        key=merit,
    )


def _spec(scalar: str, epilogue: int, x_rows: int, config: StreamConfig) -> KernelSpec:
    return spec(
        "sm90_stream_gemm.cu",
        "stream_gemm_kernel",
        min_arch=90,
        max_arch=90,
        SCALAR=scalar,
        EPILOGUE=epilogue,
        X_ROWS=x_rows,
        ROWS=config.rows,
        CLUSTER=config.splits,
        STAGES=config.stages(x_rows),
    )


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, epilogue, x_rows, StreamConfig(rows, splits))
    for scalar in SCALAR_NAMES.values()
    for x_rows in _NUM_THREADS
    for epilogue, rows, splits in ((0, 96, 2), (0, 64, 2), (1, 192, 1), (2, 192, 1))  # those of Qwen3-8B on 132 SMs
    if x_rows <= _NARROW_ROWS or rows >= _WIDE_TILE
)


def supports(m: int, n: int, k: int, device: torch.device) -> bool:
    return m > 0 and n % 16 == 0 and k % _STAGE_K == 0 and k >= 4 * _STAGE_K and jit.capability(device) == (9, 0)


def pays(m: int, n: int, k: int, num_sms: int) -> bool:
    """Whether cuBLAS would be slower. Narrow tiles and parts of K read many rows of x from L2 for longer than they multiply."""
    if m <= _NARROW_ROWS:
        return True
    count, rows = x_tiles(m)
    config = choose_config(n, k, 1, num_sms)
    is_wide = config.splits == 1 and config.rows >= _WIDE_TILE
    return m <= MAX_ROWS and is_wide and (count == 1 or count * rows == m)


@dataclass(frozen=True, slots=True)
class _Plan:
    """All of a launch that its shapes decide."""

    kernel: jit.Kernel
    box_rows: int  # of the weight that one copy brings
    x_tiles: int
    x_box_rows: int
    trigger_stages: int
    grid: jit.Dim3
    num_threads: int
    shared_bytes: int
    cluster: jit.Dim3 | None


@lru_cache(maxsize=4096)
def _plan(
    m: int, n: int, k: int, epilogue: int, width: int, scalar: str, device: torch.device, config: StreamConfig | None
) -> _Plan:
    if not supports(m, n, k, device):
        raise ValueError(
            f"x must have rows of a multiple of 64 from 256 on, and the weight a multiple of 16 rows, on sm_90; got {[m, k]} "
            f"and {[n, k]}"
        )
    halves, (num_x_tiles, x_rows) = n // width, x_tiles(m)
    config = config or choose_config(width, k, halves, jit.num_sms(device.index))
    return _Plan(
        kernel=jit.load_spec(_spec(scalar, epilogue, x_rows, config), device),
        box_rows=config.rows // halves,
        x_tiles=num_x_tiles,
        x_box_rows=min(m, x_rows),
        trigger_stages=config.trigger_stages,
        grid=(-(-n // config.rows) * num_x_tiles * config.splits, 1, 1),
        num_threads=_NUM_THREADS[x_rows],
        shared_bytes=config.shared_bytes(x_rows),
        cluster=(config.splits, 1, 1) if config.splits > 1 else None,
    )


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    epilogue: int,
    pdl: bool,
    config: StreamConfig | None,
) -> None:
    """Arguments as checked by skinny_gemm."""
    (m, k), n, stride = x.shape, weight.shape[0], x.stride(0)
    plan = _plan(m, n, k, epilogue, out.shape[1], SCALAR_NAMES[x.dtype], x.device, config)
    params = _PARAMS.pack(
        tensor_map(weight.data_ptr(), x.dtype, (k, n, 1), (k, n * k), (_STAGE_K, plan.box_rows, 1)),
        tensor_map(x.data_ptr(), x.dtype, (k, m, 1), (stride, m * stride), (_STAGE_K, plan.x_box_rows, 1)),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        m,
        n,
        k,
        plan.x_tiles,
        plan.x_box_rows,
        plan.trigger_stages,
    )
    plan.kernel.launch(
        grid=plan.grid,
        block=(plan.num_threads, 1, 1),
        args=(params,),
        smem_bytes=plan.shared_bytes,
        pdl=pdl,
        cluster=plan.cluster,
    )
