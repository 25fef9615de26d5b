"""Rows of the embedding table by token id."""

from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import SCALAR_NAMES, check_index, check_like, check_shape, scalar_name
from nanopd.kernels.nvrtc import KernelSpec, spec

_TOKEN_IDS = {torch.int32: "int", torch.int64: "long long"}


def _spec(scalar: str, token_id: str, out: str) -> KernelSpec:
    return spec("embedding.cu", "embedding_kernel", SCALAR=scalar, TOKEN_ID=token_id, OUT=out)


CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(scalar, token_id, out)
    for scalar in SCALAR_NAMES.values()
    for token_id in _TOKEN_IDS.values()
    for out in (scalar, "float")
)


@cache
def _kernel(scalar: str, ids: torch.dtype, out: torch.dtype, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(scalar, _TOKEN_IDS[ids], "float" if out == torch.float32 else scalar), device)


def embedding(
    token_ids: torch.Tensor, table: torch.Tensor, out: torch.Tensor | None = None, *, pdl: bool = False
) -> torch.Tensor:
    """out[t] = table[token_ids[t]]; an id outside [0, V) gives a row of zeros.

    token_ids [T] int32 or int64; table [V, H] bf16 or fp16, contiguous, H a multiple of 8; ``out`` [T, H] like the table or float32, contiguous.
    """
    scalar = scalar_name(table, "table")
    check_shape(token_ids, (None,), "token_ids")
    check_index(token_ids, tuple(_TOKEN_IDS), table, "token_ids")
    check_shape(table, (None, None), "table")
    vocab, hidden = table.shape
    if hidden % 8 or not table.is_contiguous() or table.data_ptr() % 16:
        raise ValueError(f"table must be contiguous with rows of a multiple of 8, got {list(table.shape)}")
    num_tokens = token_ids.shape[0]
    if out is None:
        out = torch.empty((num_tokens, hidden), dtype=table.dtype, device=table.device)
    check_shape(out, (num_tokens, hidden), "out")
    if out.dtype != torch.float32 or out.device != table.device:
        check_like(out, table, "out")
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {out.stride()}")
    if num_tokens == 0:
        return out
    vectors = hidden // 8
    _kernel(scalar, token_ids.dtype, out.dtype, table.device).launch(
        grid=(num_tokens, 1, 1),
        block=(min(512, -(-vectors // 32) * 32), 1, 1),
        args=(table, token_ids, out, jit.i64(vocab), jit.i32(vectors)),
        pdl=pdl,
    )
    return out
