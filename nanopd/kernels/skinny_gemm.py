"""Linear layers for a handful of tokens: the weights streamed once, at the speed of memory (sm_90 and up)."""

import struct
from dataclasses import dataclass
from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import SCALAR_NAMES, check_like, check_rows, check_shape, scalar_name
from nanopd.kernels.nvrtc import KernelSpec, spec
from nanopd.kernels.tensor_map import tensor_map

MAX_ROWS = 32  # of x
_STORE, _ADD_RESIDUAL, _SILU_MUL = 0, 1, 2  # Epilogue in skinny_gemm.cu
_PARAMS = struct.Struct("128s3Qq6i8x")  # struct Params
_WARPS, _TILE_ROWS, _PANEL = 8, 16, 64
_SLAB = 4096  # elements of K times tiles of x that fit in registers


@dataclass(frozen=True, slots=True)
class GemmConfig:
    """How the stream of weights is cut and how far it runs ahead.

    ``stage_k``: elements of K a stage; ``stages`` fit in shared memory twice, so that the next kernel's first stages
    arrive while this one ends. ``prefetch_stages`` more go to L2; the next kernel may start when ``trigger_stages`` are
    left to be copied.
    """

    stage_k: int
    stages: int
    prefetch_stages: int = 0
    trigger_stages: int = 8

    def shared_bytes(self, x_tiles: int) -> int:
        ring = self.stages * _TILE_ROWS * self.stage_k * 2
        partial = (2 if x_tiles < 4 else 1) * _WARPS * _TILE_ROWS * 8 * x_tiles * 4
        return -(-(ring + partial + 2 * 8 * self.stages) // 1024) * 1024


# By tiles of 8 rows of x: partial sums grow with them, so the ring shrinks.
_DEFAULTS = {1: GemmConfig(512, 6), 2: GemmConfig(512, 5), 4: GemmConfig(512, 4)}


def num_x_tiles(m: int) -> int:
    return 1 if m <= 8 else 2 if m <= 16 else 4


def _spec(scalar: str, epilogue: int, x_tiles: int, config: GemmConfig) -> KernelSpec:
    return spec(
        "skinny_gemm.cu",
        "skinny_gemm_kernel",
        min_arch=90,
        SCALAR=scalar,
        EPILOGUE=epilogue,
        X_TILES=x_tiles,
        STAGE_K=config.stage_k,
        STAGES=config.stages,
    )


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, epilogue, x_tiles, config)
    for scalar in SCALAR_NAMES.values()
    for epilogue in (_STORE, _ADD_RESIDUAL, _SILU_MUL)
    for x_tiles, config in _DEFAULTS.items()
)


@cache
def _kernel(scalar: str, epilogue: int, x_tiles: int, config: GemmConfig, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(scalar, epilogue, x_tiles, config), device)


def supports(m: int, k: int, device: torch.device) -> bool:
    """Whether the kernel takes these sizes on this device, fast or not."""
    return 0 < m <= MAX_ROWS and k % 512 == 0 and torch.cuda.get_device_capability(device)[0] >= 9


def skinny_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    config: GemmConfig | None = None,
) -> torch.Tensor:
    """out = x weight^T + bias, summed in float32.

    x [M, K] bf16 or fp16, M <= 32, rows may lie apart; weight [N, K] contiguous, K a multiple of 512; bias [N];
    ``out`` [M, N] contiguous. Returns ``out``.
    """
    return _launch(x, weight, bias, out, _STORE, pdl, config)


def skinny_linear_add(
    x: torch.Tensor,
    weight: torch.Tensor,
    residual: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    config: GemmConfig | None = None,
) -> torch.Tensor:
    """residual [M, N] += x weight^T + bias, in place; the product is rounded before the addition. Returns ``residual``."""
    return _launch(x, weight, bias, residual, _ADD_RESIDUAL, pdl, config)


def skinny_linear_silu_mul(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    config: GemmConfig | None = None,
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
    config: GemmConfig | None,
) -> torch.Tensor:
    scalar = scalar_name(x, "x")
    check_shape(x, (None, None), "x")
    check_rows(x, "x")
    m, k = x.shape
    check_shape(weight, (None, k), "weight")
    check_like(weight, x, "weight")
    if not weight.is_contiguous() or weight.data_ptr() % 16:
        raise ValueError(f"weight must be contiguous and aligned to 16 bytes, got strides {weight.stride()}")
    x_tiles = num_x_tiles(m)
    config = config or _DEFAULTS[x_tiles]
    if not 0 < m <= MAX_ROWS or k % config.stage_k:
        raise ValueError(
            f"x must have 1 to {MAX_ROWS} rows of a multiple of {config.stage_k} elements, got {list(x.shape)}"
        )
    n = weight.shape[0]
    width = n // 2 if epilogue == _SILU_MUL else n
    if bias is not None:
        check_shape(bias, (n,), "bias")
        check_like(bias, x, "bias")
    if out is None:
        out = torch.empty((m, width), dtype=x.dtype, device=x.device)
    check_shape(out, (m, width), "out")
    check_like(out, x, "out")
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {out.stride()}")
    num_tiles = -(-width // (_TILE_ROWS // (2 if epilogue == _SILU_MUL else 1)))
    # As many CTAs as give each the same number of tiles, give or take one.
    most = -(-num_tiles // jit.num_sms(x.device.index))
    grid = -(-num_tiles // most)
    # Sums of a slab of K wait in shared memory for the next slab.
    totals = most * _TILE_ROWS * 8 * x_tiles * 4 if k > _SLAB // x_tiles else 0
    boxes = tensor_map(
        weight.data_ptr(), weight.dtype, (_PANEL, n, k // _PANEL), (k, _PANEL), (_PANEL, 8, config.stage_k // _PANEL)
    )
    params = _PARAMS.pack(
        boxes,
        x.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        x.stride(0),
        m,
        n,
        k,
        num_tiles,
        config.prefetch_stages,
        config.trigger_stages,
    )
    _kernel(scalar, epilogue, x_tiles, config, x.device).launch(
        grid=(grid, 1, 1),
        block=(32 * _WARPS, 1, 1),
        args=(params,),
        smem_bytes=config.shared_bytes(x_tiles) + totals,
        pdl=pdl,
    )
    return out
