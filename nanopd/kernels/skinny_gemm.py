"""Linear layers for few tokens: the weights streamed once, at the speed of memory (sm_90 and up).

Up to 8 rows by mma.m16n8 (skinny_gemm.cu), more by wgmma (stream_gemm.py).
"""

import struct
from dataclasses import dataclass
from functools import cache, lru_cache

import torch

from nanopd.kernels import jit, stream_gemm
from nanopd.kernels.checks import SCALAR_NAMES, check_like, check_rows, check_shape, scalar_name
from nanopd.kernels.nvrtc import KernelSpec, spec
from nanopd.kernels.stream_gemm import StreamConfig
from nanopd.kernels.tensor_map import tensor_map

MAX_ROWS = stream_gemm.MAX_ROWS  # of x
_MMA_ROWS = 8  # up to here skinny_gemm.cu reads faster than stream_gemm
_STORE, _SILU_MUL, _STORE_FLOAT = 0, 1, 2  # Epilogue in skinny_gemm.cu
_PARAMS = struct.Struct("128s3Qq5i12x")  # struct Params
_WARPS, _TILE_ROWS, _PANEL, _STAGE_K = 8, 16, 64, 512
_SHARED_LIMIT = 227 * 1024


@dataclass(frozen=True, slots=True)
class GemmConfig:
    """``slab_k``: elements of K whose x is held in registers; ``stages`` of 16 KiB in the ring; the next kernel may start
    when ``trigger_stages`` are left to be copied.
    """

    slab_k: int
    stages: int
    trigger_stages: int = 8

    def shared_bytes(self, x_tiles: int, tiles_waiting: int) -> int:
        """``tiles_waiting``: tiles of a CTA whose sums wait for the next slab."""
        ring = self.stages * _TILE_ROWS * _STAGE_K * 2
        tile = _TILE_ROWS * 8 * x_tiles * 4
        partial = 2 * _WARPS * tile
        return -(-(ring + partial + 2 * 8 * self.stages) // 1024) * 1024 + tiles_waiting * tile


_DEFAULTS = {1: GemmConfig(4096, 10), 2: GemmConfig(4096, 10)}  # by tiles of 8 rows of x


def _spec(scalar: str, epilogue: int, x_tiles: int, config: GemmConfig) -> KernelSpec:
    return spec(
        "skinny_gemm.cu",
        "skinny_gemm_kernel",
        min_arch=90,
        SCALAR=scalar,
        EPILOGUE=epilogue,
        X_TILES=x_tiles,
        SLAB_K=config.slab_k,
        STAGES=config.stages,
    )


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, epilogue, x_tiles, config)
    for scalar in SCALAR_NAMES.values()
    for epilogue in (_STORE, _SILU_MUL, _STORE_FLOAT)
    for x_tiles, config in _DEFAULTS.items()
)


@cache
def _kernel(scalar: str, epilogue: int, x_tiles: int, config: GemmConfig, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(scalar, epilogue, x_tiles, config), device)


@lru_cache(maxsize=4096)
def supports(m: int, n: int, k: int, device: torch.device) -> bool:
    """Whether m rows times a weight of [n, k] can be taken on this device; where they can, they beat cuBLAS.

    Measured on an H200 with the shapes of Qwen3-8B (docs/en/kernels/linear.md), milliseconds of a whole decode step at context 1152, ours / cuBLAS:
    M = 1: 4.16 / 4.65, 8: 4.56 / 5.13, 16: 4.83 / 5.12, 32: 5.64 / 6.01, 64: 7.09 / 7.59, 128: 10.04 / 10.47. Beyond see ``stream_gemm.pays``.
    """
    if 0 < m <= _MMA_ROWS:
        return k % _STAGE_K == 0 and jit.capability(device)[0] >= 9
    return stream_gemm.supports(m, n, k, device) and stream_gemm.pays(m, n, k, jit.num_sms(_index(device)))


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _tiles_per_cta(num_tiles: int, device: torch.device) -> int:
    return -(-num_tiles // jit.num_sms(_index(device)))


def skinny_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    config: GemmConfig | StreamConfig | None = None,
) -> torch.Tensor:
    """out = x weight^T + bias, summed in float32.

    x [M, K] bf16 or fp16, rows may lie apart; weight [N, K] contiguous; bias [N]; ``out`` [M, N] like x or float32, contiguous. M <= 8: K
    a multiple of 512; more, sm_90a: K a multiple of 64, N of 16. ``config`` is for measurements. Returns ``out``.
    """
    is_float = out is not None and out.dtype == torch.float32
    return _launch(x, weight, bias, out, _STORE_FLOAT if is_float else _STORE, pdl, config)


def skinny_linear_silu_mul(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    config: GemmConfig | StreamConfig | None = None,
) -> torch.Tensor:
    """out [M, I] = silu(x gate^T) * (x up^T), weight [2 * I, K] holding the gate rows, then the up rows."""
    return _launch(x, weight, bias, out, _SILU_MUL, pdl, config)


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor | None,
    epilogue: int,
    pdl: bool,
    config: GemmConfig | StreamConfig | None,
) -> torch.Tensor:
    scalar_name(x, "x")
    check_shape(x, (None, None), "x")
    check_rows(x, "x")
    m, k = x.shape
    check_shape(weight, (None, k), "weight")
    check_like(weight, x, "weight")
    if not weight.is_contiguous() or weight.data_ptr() % 16:
        raise ValueError(f"weight must be contiguous and aligned to 16 bytes, got strides {weight.stride()}")
    n = weight.shape[0]
    width = n // 2 if epilogue == _SILU_MUL else n
    if bias is not None:
        check_shape(bias, (n,), "bias")
        check_like(bias, x, "bias")
    if out is None:
        out = torch.empty((m, width), dtype=x.dtype, device=x.device)
    check_shape(out, (m, width), "out")
    if epilogue != _STORE_FLOAT or out.device != x.device:
        check_like(out, x, "out")
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {out.stride()}")
    if config is None:
        config = _DEFAULTS[1] if m <= _MMA_ROWS else None
    if isinstance(config, GemmConfig):
        _launch_mma(x, weight, bias, out, epilogue, pdl, config)
    else:
        stream_gemm.launch(x, weight, bias, out, epilogue, pdl, config)
    return out


def _launch_mma(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    epilogue: int,
    pdl: bool,
    config: GemmConfig,
) -> None:
    (m, k), n = x.shape, weight.shape[0]
    if not 0 < m <= 16 or k % _STAGE_K:
        raise ValueError(f"x must have 1 to 16 rows of a multiple of {_STAGE_K} elements, got {list(x.shape)}")
    x_tiles = -(-m // 8)
    num_tiles = -(-out.shape[1] // (_TILE_ROWS // (2 if epilogue == _SILU_MUL else 1)))
    # As many CTAs as give each the same number of tiles, give or take one.
    most = _tiles_per_cta(num_tiles, x.device)
    shared_bytes = config.shared_bytes(x_tiles, most if k > config.slab_k else 0)
    if shared_bytes > _SHARED_LIMIT:
        raise ValueError(f"{m} rows times a weight of {list(weight.shape)} needs {shared_bytes} bytes of shared memory")
    boxes = (_PANEL, n, k // _PANEL), (k, _PANEL), (_PANEL, 8, _STAGE_K // _PANEL)
    params = _PARAMS.pack(
        tensor_map(weight.data_ptr(), weight.dtype, *boxes),
        x.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        x.stride(0),
        m,
        n,
        k,
        num_tiles,
        config.trigger_stages,
    )
    _kernel(SCALAR_NAMES[x.dtype], epilogue, x_tiles, config, x.device).launch(
        grid=(-(-num_tiles // most), 1, 1),
        block=(32 * _WARPS, 1, 1),
        args=(params,),
        smem_bytes=shared_bytes,
        pdl=pdl,
    )
