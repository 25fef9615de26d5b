"""Linear layers for tens of tokens: wgmma over a stream of weights, K split over a cluster (sm_90a). Called by skinny_gemm."""

import struct
from dataclasses import dataclass
from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import SCALAR_NAMES
from nanopd.kernels.nvrtc import KernelSpec, spec
from nanopd.kernels.tensor_map import tensor_map

MAX_ROWS = 128  # of x
_PARAMS = struct.Struct("128s128s2Q4i32x")  # struct Params in sm90_stream_gemm.cu
_STAGE_K = 64
_SHARED_BYTES = 227 * 1024
_MAX_STAGES = 10
_ROWS, _SPLITS = (192, 128, 64), (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """``rows`` of the weight a tile, its K split over ``splits`` CTAs; the next kernel may start when ``trigger_stages``
    are left to be copied."""

    rows: int
    splits: int
    trigger_stages: int = 4

    def stages(self, columns: int) -> int:
        return min(_MAX_STAGES, (_SHARED_BYTES - 1024) // self.stage_bytes(columns))

    def stage_bytes(self, columns: int) -> int:
        return (self.rows + columns) * _STAGE_K * 2

    def shared_bytes(self, columns: int) -> int:
        return self.stages(columns) * (self.stage_bytes(columns) + 16)


def num_columns(m: int) -> int:
    """Rows of x, rounded up to what wgmma multiplies at once."""
    return next(columns for columns in (16, 32, 64, 128) if m <= columns)


@cache
def choose_config(width: int, k: int, halves: int, num_sms: int) -> StreamConfig:
    """The tile and split that keep most SMs busy to the end. ``halves``: 2 if a tile holds gate rows and up rows."""

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
            if k // _STAGE_K >= 4 * splits and rows // halves % (4 * splits) == 0
        ),
        key=merit,
    )


def _spec(scalar: str, epilogue: int, columns: int, config: StreamConfig) -> KernelSpec:
    return spec(
        "sm90_stream_gemm.cu",
        "stream_gemm_kernel",
        min_arch=90,
        max_arch=90,
        SCALAR=scalar,
        EPILOGUE=epilogue,
        COLUMNS=columns,
        ROWS=config.rows,
        CLUSTER=config.splits,
        STAGES=config.stages(columns),
    )


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, epilogue, columns, StreamConfig(rows, splits))
    for scalar in SCALAR_NAMES.values()
    for columns in (16, 32, 64, 128)
    for epilogue, rows, splits in ((0, 192, 4), (0, 64, 2), (1, 192, 1), (2, 192, 1))  # those of Qwen3-8B on 132 SMs
)


@cache
def _kernel(scalar: str, epilogue: int, columns: int, config: StreamConfig, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(scalar, epilogue, columns, config), device)


def supports(m: int, n: int, k: int, device: torch.device) -> bool:
    return (
        0 < m <= MAX_ROWS
        and n % 16 == 0
        and k % _STAGE_K == 0
        and k >= 4 * _STAGE_K
        and torch.cuda.get_device_capability(device) == (9, 0)
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
    (m, k), n = x.shape, weight.shape[0]
    if not supports(m, n, k, x.device):
        raise ValueError(
            f"x must have 1 to {MAX_ROWS} rows of a multiple of 64 from 256 on, and the weight a multiple of 16 rows, on "
            f"sm_90; got {list(x.shape)} and {list(weight.shape)}"
        )
    halves = n // out.shape[1]
    config = config or choose_config(out.shape[1], k, halves, jit.num_sms(x.device.index))
    columns = num_columns(m)
    params = _PARAMS.pack(
        tensor_map(weight.data_ptr(), x.dtype, (k, n, 1), (k, n * k), (_STAGE_K, config.rows // halves, 1)),
        tensor_map(x.data_ptr(), x.dtype, (k, m, 1), (x.stride(0), m * x.stride(0)), (_STAGE_K, columns, 1)),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        m,
        n,
        k,
        config.trigger_stages,
    )
    _kernel(SCALAR_NAMES[x.dtype], epilogue, columns, config, x.device).launch(
        grid=(-(-n // config.rows) * config.splits, 1, 1),
        block=(2 * config.rows + 32, 1, 1),
        args=(params,),
        smem_bytes=config.shared_bytes(columns),
        pdl=pdl,
        cluster=(config.splits, 1, 1) if config.splits > 1 else None,
    )
