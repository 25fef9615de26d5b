"""Dense projections, alone and fused with what follows them in a layer.

On a GPU a step of few tokens is bound by reading the weights. cuBLAS reads them well at most sizes; our skinny kernel takes the sizes where it was
measured to read them faster, with the residual addition or the SwiGLU activation in its epilogue.
"""

import torch
import torch.nn.functional as F

from nanopd.layers.activation import silu_mul
from nanopd.layers.dispatch import uses_kernels

# Where the skinny kernel beats cuBLAS (H200, Qwen3-8B shapes): up to 8 rows, weights of a few thousand rows (o, down, qkv: 0.5-2.5 us of 10-30).
_SKINNY_ROWS = 8
_SKINNY_OUTPUTS = 8192


def linear(
    x_TE: torch.Tensor, weight_FE: torch.Tensor, bias_F: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x @ weight.T + bias: [T, E] -> [T, F]. ``out`` only without a bias."""
    if _is_skinny(x_TE, weight_FE):
        from nanopd.kernels.jit import supports_pdl
        from nanopd.kernels.skinny_gemm import skinny_linear

        return skinny_linear(x_TE, weight_FE, bias_F, out, pdl=supports_pdl(x_TE.device))
    if out is not None:
        return torch.mm(x_TE, weight_FE.t(), out=out)
    return F.linear(x_TE, weight_FE, bias_F)


def linear_add_(
    x_TE: torch.Tensor, weight_FE: torch.Tensor, bias_F: torch.Tensor | None, residual_TF: torch.Tensor
) -> None:
    """residual += x @ weight.T + bias, in place."""
    if _is_skinny(x_TE, weight_FE):
        from nanopd.kernels.jit import supports_pdl
        from nanopd.kernels.skinny_gemm import skinny_linear_add

        skinny_linear_add(x_TE, weight_FE, residual_TF, bias_F, pdl=supports_pdl(x_TE.device))
        return
    residual_TF.addmm_(x_TE, weight_FE.t())
    if bias_F is not None:
        residual_TF.add_(bias_F)


def linear_silu_mul(x_TE: torch.Tensor, weight_FE: torch.Tensor, bias_F: torch.Tensor | None) -> torch.Tensor:
    """silu_mul(x @ weight.T + bias), weight holding gate rows, then up rows: [T, E] -> [T, F / 2]."""
    if _is_skinny(x_TE, weight_FE):
        from nanopd.kernels.jit import supports_pdl
        from nanopd.kernels.skinny_gemm import skinny_linear_silu_mul

        return skinny_linear_silu_mul(x_TE, weight_FE, bias_F, pdl=supports_pdl(x_TE.device))
    return silu_mul(F.linear(x_TE, weight_FE, bias_F))


def _is_skinny(x_TE: torch.Tensor, weight_FE: torch.Tensor) -> bool:
    (num_rows, num_inputs), num_outputs = x_TE.shape, weight_FE.shape[0]
    if num_rows > _SKINNY_ROWS or num_outputs > _SKINNY_OUTPUTS or not uses_kernels(x_TE):
        return False
    from nanopd.kernels.skinny_gemm import supports

    return supports(num_rows, num_outputs, num_inputs, x_TE.device)
