"""Rows of the embedding table by token id."""

from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import check_index, check_like, check_shape, scalar_name
from nanopd.kernels.nvrtc import KernelSpec, spec

_TOKEN_IDS = {torch.int32: "int", torch.int64: "long long"}


def _spec(token_id: str) -> KernelSpec:
    return spec("embedding.cu", "embedding_kernel", TOKEN_ID=token_id)


CONFIGS: tuple[KernelSpec, ...] = tuple(_spec(token_id) for token_id in _TOKEN_IDS.values())


@cache
def _kernel(dtype: torch.dtype, device: torch.device) -> jit.Kernel:
    return jit.load_spec(_spec(_TOKEN_IDS[dtype]), device)


def embedding(
    token_ids: torch.Tensor, table: torch.Tensor, out: torch.Tensor | None = None, *, pdl: bool = False
) -> torch.Tensor:
    """out[t] = table[token_ids[t]]; an id outside [0, V) gives a row of zeros.

    token_ids [T] int32 or int64; table [V, H] bf16 or fp16, contiguous, H a multiple of 8; ``out`` [T, H] contiguous.
    """
    scalar_name(table, "table")
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
    check_like(out, table, "out")
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {out.stride()}")
    if num_tokens == 0:
        return out
    vectors = hidden // 8
    _kernel(token_ids.dtype, table.device).launch(
        grid=(num_tokens, 1, 1),
        block=(min(512, -(-vectors // 32) * 32), 1, 1),
        args=(table, token_ids, out, jit.i64(vocab), jit.i32(vectors)),
        pdl=pdl,
    )
    return out
