"""One token per row of logits, greedy or drawn, without sorting; the rules of ``layers/sampler.py`` in one launch."""

import struct
import sys
from dataclasses import dataclass
from functools import cache

import torch

from nanopd.kernels import jit
from nanopd.kernels.checks import SCALAR_NAMES, check_index, check_shape
from nanopd.kernels.nvrtc import KernelSpec, spec

_LOGITS = {**SCALAR_NAMES, torch.float32: "float"}
_PARAMS = struct.Struct("7Qq4i")  # struct Params in sampling.cu
_GROUP = 8  # a multiple of what one 16-byte load holds
_MAX_VOCAB = 1 << 18  # sums of masses as integers overflow beyond


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """``cluster`` CTAs a row of ``threads`` each; the compiler keeps registers low enough for ``min_ctas`` an SM."""

    cluster: int
    threads: int
    min_ctas: int

    def slice_tokens(self, vocab: int) -> int:
        """Tokens a CTA."""
        return -(-vocab // (self.cluster * _GROUP)) * _GROUP


# (most rows, shape of the launch), measured on an H200 with V = 151,936 in float32 (docs/en/kernels/sampling.md). Few rows: clusters, for
# latency. Many rows, or no clusters: one CTA each.
Ladder = tuple[tuple[int, SamplingConfig], ...]
PLAIN: Ladder = (
    (16, SamplingConfig(8, 512, 2)),
    (32, SamplingConfig(4, 512, 2)),
    (64, SamplingConfig(2, 1024, 1)),
    (128, SamplingConfig(1, 1024, 1)),
    (sys.maxsize, SamplingConfig(1, 512, 2)),
)
FILTERED: Ladder = (
    (16, SamplingConfig(8, 512, 1)),
    (64, SamplingConfig(2, 1024, 1)),
    (sys.maxsize, SamplingConfig(1, 1024, 1)),
)


def _spec(logit: str, greedy_only: bool, has_filters: bool, config: SamplingConfig) -> KernelSpec:
    return spec(
        "sampling.cu",
        "sampling_kernel",
        min_arch=90 if config.cluster > 1 else 80,
        LOGIT=logit,
        CLUSTER=config.cluster,
        THREADS=config.threads,
        MIN_CTAS=config.min_ctas,
        GREEDY_ONLY=greedy_only,
        HAS_FILTERS=has_filters,
    )


# float32 is what the engine samples from; of the 16-bit types one shape shows that they compile.
CONFIGS: tuple[KernelSpec, ...] = tuple(
    _spec(logit, greedy, filters, config)
    for logit in _LOGITS.values()
    for greedy, filters, ladder in ((True, False, PLAIN), (False, False, PLAIN), (False, True, FILTERED))
    for _, config in (ladder if logit == "float" else ladder[-1:])
)


@cache
def _kernel(
    logit: str, greedy_only: bool, has_filters: bool, config: SamplingConfig, device: torch.device
) -> jit.Kernel:
    return jit.load_spec(_spec(logit, greedy_only, has_filters, config), device)


def choose_config(num_rows: int, has_filters: bool, has_clusters: bool) -> SamplingConfig:
    ladder = FILTERED if has_filters else PLAIN
    return next(config for most, config in ladder if num_rows <= most and (has_clusters or config.cluster == 1))


@cache
def _has_clusters(device: torch.device) -> bool:
    return jit.capability(device)[0] >= 9


def greedy(
    logits: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    config: SamplingConfig | None = None,
) -> torch.Tensor:
    """The most probable token of each row, the lowest id among equals. Arguments as of ``sample``."""
    return _launch(logits, None, None, None, None, None, out, True, False, pdl, config)


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    uniform: torch.Tensor,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    pdl: bool = False,
    config: SamplingConfig | None = None,
) -> torch.Tensor:
    """Draw one token a row by inversion in token order; rows of temperature 0 are greedy.

    logits [B, V] bf16, fp16 or float32, rows may lie apart; temperature [B] float32; uniform [B] float32 in [0, 1);
    top_k [B] int32 or int64, 0 = off; top_p [B] float32, 1 = off; min_p [B] float32, 0 = off: all three or none. Equal
    logits are kept or cut together. V is at most 2^18. ``out`` [B] int64 (default) or int32. Returns ``out``.
    """
    filters = [tensor for tensor in (top_k, top_p, min_p) if tensor is not None]
    if len(filters) not in (0, 3):
        raise ValueError("top_k, top_p and min_p must be given together, or none of them")
    return _launch(logits, temperature, top_k, top_p, min_p, uniform, out, False, bool(filters), pdl, config)


def _launch(
    logits: torch.Tensor,
    temperature: torch.Tensor | None,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
    uniform: torch.Tensor | None,
    out: torch.Tensor | None,
    greedy_only: bool,
    has_filters: bool,
    pdl: bool,
    config: SamplingConfig | None,
) -> torch.Tensor:
    if logits.dtype not in _LOGITS:
        raise TypeError(f"logits must be bfloat16, float16 or float32, got {logits.dtype}")
    check_shape(logits, (None, None), "logits")
    if logits.stride(1) != 1:
        raise ValueError(f"logits must have contiguous rows, got strides {logits.stride()}")
    num_rows, vocab = logits.shape
    if vocab > _MAX_VOCAB:
        raise ValueError(f"logits must have at most {_MAX_VOCAB} columns, got {vocab}")
    floats = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "uniform": uniform}
    for name, tensor in floats.items():
        if tensor is None:
            continue
        check_shape(tensor, (num_rows,), name)
        if tensor.dtype != torch.float32 or tensor.device != logits.device or not tensor.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous float32 on {logits.device}, got {tensor.dtype} on {tensor.device}"
            )
    if out is None:
        out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    for name, index in (("out", out), ("top_k", top_k)):
        if index is not None:
            check_shape(index, (num_rows,), name)
            check_index(index, (torch.int32, torch.int64), logits, name)
    if num_rows == 0:
        return out
    config = config or choose_config(num_rows, has_filters, _has_clusters(logits.device))
    pointers = (logits, temperature, top_k, top_p, min_p, uniform, out)
    params = _PARAMS.pack(
        *(0 if tensor is None else tensor.data_ptr() for tensor in pointers),
        logits.stride(0),
        vocab,
        config.slice_tokens(vocab),
        top_k is not None and top_k.dtype == torch.int64,
        out.dtype == torch.int64,
    )
    _kernel(_LOGITS[logits.dtype], greedy_only, has_filters, config, logits.device).launch(
        grid=(num_rows * config.cluster, 1, 1),
        block=(config.threads, 1, 1),
        args=(params,),
        pdl=pdl,
        cluster=(config.cluster, 1, 1) if config.cluster > 1 else None,
    )
    return out
