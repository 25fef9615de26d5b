"""Dense projections, alone, fused with SwiGLU's activation, and with float32 results.

On a GPU a step of few tokens is bound by reading the weights: up to 128 rows our skinny kernels read them faster than cuBLAS
(docs/en/kernels/linear.md). On a CPU without bfloat16 instructions a product of several rows is computed in float32: widening the
weights each time costs less than torch's 16-bit loops from 5 rows for each thread on (the loops scale with threads, widening is bound by memory).
"""

import torch
import torch.nn.functional as F

from nanopd.layers.activation import silu_mul
from nanopd.layers.dispatch import cpu_multiplies_bf16, uses_kernels

_WIDEN_ROWS_PER_THREAD = 5
_WIDEN_CHUNK = 1024  # rows of a weight that are float32 at once: they stay in cache


def linear(x_TE: torch.Tensor, weight_FE: torch.Tensor, bias_F: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T + bias: [T, E] -> [T, F]."""
    if uses_kernels(x_TE):
        from nanopd.kernels import skinny_gemm

        if skinny_gemm.supports(len(x_TE), *weight_FE.shape, x_TE.device):
            return skinny_gemm.skinny_linear(x_TE, weight_FE, bias_F, pdl=True)
    return _torch_linear(x_TE, weight_FE, bias_F)


def linear_silu_mul(x_TE: torch.Tensor, weight_FE: torch.Tensor, bias_F: torch.Tensor | None) -> torch.Tensor:
    """silu_mul(x @ weight.T + bias), weight holding gate rows, then up rows: [T, E] -> [T, F / 2]."""
    if uses_kernels(x_TE):
        from nanopd.kernels import skinny_gemm

        if skinny_gemm.supports(len(x_TE), *weight_FE.shape, x_TE.device):
            return skinny_gemm.skinny_linear_silu_mul(x_TE, weight_FE, bias_F, pdl=True)
    return silu_mul(_torch_linear(x_TE, weight_FE, bias_F))


def linear_float32(x_TE: torch.Tensor, weight_FE: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T with sums that are not rounded to x's dtype: [T, E] -> float32 [T, F]."""
    if out is None:
        out = torch.empty(x_TE.shape[0], weight_FE.shape[0], dtype=torch.float32, device=x_TE.device)
    if uses_kernels(x_TE):
        from nanopd.kernels import skinny_gemm

        if skinny_gemm.supports(len(x_TE), *weight_FE.shape, x_TE.device):
            return skinny_gemm.skinny_linear(x_TE, weight_FE, out=out, pdl=True)
    if x_TE.dtype == torch.float32:
        return torch.mm(x_TE, weight_FE.t(), out=out)
    if x_TE.is_cuda:
        return torch.mm(x_TE, weight_FE.t(), out_dtype=torch.float32, out=out)
    wide_TE = x_TE.float()
    chunk_FE = torch.empty(_WIDEN_CHUNK, weight_FE.shape[1])
    for rows_FE, part_TF in zip(weight_FE.split(_WIDEN_CHUNK), out.split(_WIDEN_CHUNK, dim=1), strict=True):
        torch.mm(wide_TE, chunk_FE[: len(rows_FE)].copy_(rows_FE).t(), out=part_TF)
    return out


def _torch_linear(x_TE: torch.Tensor, weight_FE: torch.Tensor, bias_F: torch.Tensor | None) -> torch.Tensor:
    if x_TE.is_cpu and x_TE.dtype == torch.bfloat16 and _widening_pays(x_TE.shape[0]):
        bias = None if bias_F is None else bias_F.float()
        return F.linear(x_TE.float(), weight_FE.float(), bias).to(x_TE.dtype)
    return F.linear(x_TE, weight_FE, bias_F)


def _widening_pays(num_rows: int) -> bool:
    return num_rows >= _WIDEN_ROWS_PER_THREAD * torch.get_num_threads() and not cpu_multiplies_bf16()
