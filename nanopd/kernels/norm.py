"""RMSNorm, and the residual addition before it in the same pass."""

from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import SCALAR_NAMES, check_like, check_rows, check_shape, scalar_name
from nanopd.kernels.nvrtc import KernelSpec, spec

MAX_HIDDEN = 16384
_MAX_THREADS = 1024
# (most elements in a row, threads, 16-byte vectors a thread). One vector a thread while a CTA has the threads: at few
# tokens the kernel is one round trip to memory, and at many the rows of several CTAs overlap on an SM.
_SHAPES = ((1024, 128, 1), (2048, 256, 1), (4096, 512, 1), (8192, 1024, 1), (MAX_HIDDEN, 1024, 2))


def _spec(scalar: str, threads: int, vecs: int, has_x: bool, stream: str | None) -> KernelSpec:
    """``stream``: the residual stream's type, None without one."""
    return spec(
        "norm.cu",
        "rms_norm_kernel",
        SCALAR=scalar,
        THREADS=threads,
        VECS=vecs,
        HAS_X=has_x,
        HAS_STREAM=stream is not None,
        STREAM=stream or scalar,
    )


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, threads, vecs, has_x, stream)
    for scalar in SCALAR_NAMES.values()
    for _, threads, vecs in _SHAPES
    for has_x, stream in ((True, None), (True, scalar), (True, "float"), (False, "float"))
)


@cache
def _kernel(
    scalar: str, hidden: int, has_x: bool, stream: str | None, device: torch.device, shape: tuple[int, int] | None
) -> tuple[jit.Kernel, int]:
    threads, vecs = shape or next((threads, vecs) for most, threads, vecs in _SHAPES if hidden <= most)
    return jit.load_spec(_spec(scalar, threads, vecs, has_x, stream), device), threads


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    shape: tuple[int, int] | None = None,
) -> torch.Tensor:
    """out = x / sqrt(mean(x^2) + eps) * weight, in float32, rounded once.

    x [T, H] like the weight or float32, rows may lie apart; weight [H] bf16 or fp16; H a multiple of 8 up to 16384; ``out`` [T, H]
    contiguous, like the weight, may be x. ``shape``: (threads, vectors a thread) for measurements. Returns ``out``.
    """
    if x.dtype == torch.float32:
        return _launch(None, x, weight, eps, out, pdl, shape)
    return _launch(x, None, weight, eps, out, pdl, shape)


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    shape: tuple[int, int] | None = None,
) -> torch.Tensor:
    """residual += x in place, then ``rms_norm`` of the residual as stored. residual [T, H] float32 or like x, rows may lie apart."""
    check_shape(residual, tuple(x.shape), "residual")
    if residual.dtype != torch.float32 or residual.device != x.device:
        check_like(residual, x, "residual")
    return _launch(x, residual, weight, eps, out, pdl, shape)


def _launch(
    x: torch.Tensor | None,
    stream: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor | None,
    pdl: bool,
    shape: tuple[int, int] | None,
) -> torch.Tensor:
    rows = x if x is not None else stream
    assert rows is not None
    scalar = scalar_name(weight, "weight")
    check_shape(rows, (None, None), "x")
    num_tokens, hidden = rows.shape
    if hidden % 8 or not 0 < hidden <= MAX_HIDDEN:
        raise ValueError(f"the row length must be a multiple of 8 up to {MAX_HIDDEN}, got {hidden}")
    check_shape(weight, (hidden,), "weight")
    if x is not None:
        check_rows(x, "x")
        check_like(weight, x, "weight")
    if stream is not None:
        check_rows(stream, "the residual stream")
    if out is None:
        out = torch.empty(rows.shape, dtype=weight.dtype, device=rows.device)
    check_shape(out, (num_tokens, hidden), "out")
    check_like(out, weight, "out")
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {out.stride()}")
    if num_tokens == 0:
        return out
    stream_name = None if stream is None else "float" if stream.dtype == torch.float32 else scalar
    kernel, threads = _kernel(scalar, hidden, x is not None, stream_name, rows.device, shape)
    kernel.launch(
        grid=(num_tokens, 1, 1),
        block=(threads, 1, 1),
        args=(
            x,
            stream,
            weight,
            out,
            jit.i32(hidden),
            jit.i64(0 if x is None else x.stride(0)),
            jit.i64(0 if stream is None else stream.stride(0)),
            jit.f32(eps),
        ),
        pdl=pdl,
    )
    return out
