"""SiLU-mul: the gated activation between the two halves of an MLP."""

from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import SCALAR_NAMES, check_like, check_rows, check_shape, scalar_name
from nanopd.kernels.nvrtc import KernelSpec, spec

_SHAPE = (128, 1)  # threads, 16-byte vectors a thread: the best or within 1 % of it from 1 to 8192 tokens


def _spec(scalar: str, threads: int, vecs: int) -> KernelSpec:
    return spec("activation.cu", "silu_mul_kernel", SCALAR=scalar, THREADS=threads, VECS=vecs)


CONFIGS: tuple[KernelSpec, ...] = tuple(_spec(scalar, *_SHAPE) for scalar in SCALAR_NAMES.values())


@cache
def _kernel(scalar: str, threads: int, vecs: int, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(scalar, threads, vecs), device)


def silu_mul(
    gate_up: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    shape: tuple[int, int] = _SHAPE,
) -> torch.Tensor:
    """out = silu(gate) * up in float32, rounded once.

    gate_up [T, 2 * I] bf16 or fp16, gate first, rows may lie apart, I a multiple of 8; ``out`` [T, I] contiguous.
    ``shape``: (threads, vectors a thread) for measurements. Returns ``out``.
    """
    scalar = scalar_name(gate_up, "gate_up")
    check_shape(gate_up, (None, None), "gate_up")
    check_rows(gate_up, "gate_up")
    num_tokens, width = gate_up.shape
    if width % 16:
        raise ValueError(f"gate_up must have a row length that is a multiple of 16, got {width}")
    intermediate = width // 2
    if out is None:
        out = torch.empty((num_tokens, intermediate), dtype=gate_up.dtype, device=gate_up.device)
    check_shape(out, (num_tokens, intermediate), "out")
    check_like(out, gate_up, "out")
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {out.stride()}")
    if out.numel() == 0:
        return out
    threads, vecs = shape
    ctas_per_row = -(-intermediate // (8 * threads * vecs))
    _kernel(scalar, threads, vecs, gate_up.device).launch(
        grid=(num_tokens * ctas_per_row, 1, 1),
        block=(threads, 1, 1),
        args=(gate_up, out, jit.i32(intermediate), jit.i32(ctas_per_row), jit.i64(gate_up.stride(0))),
        pdl=pdl,
    )
    return out
