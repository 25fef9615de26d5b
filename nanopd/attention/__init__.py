"""Attention on paged KV: one protocol, a torch reference and a CUDA backend."""

import torch

from nanopd.attention.backend import AttentionBackend, AttentionBatch, HeadNorms
from nanopd.attention.torch_backend import TorchAttention
from nanopd.config import ModelConfig
from nanopd.errors import ConfigError

__all__ = ["AttentionBackend", "AttentionBatch", "HeadNorms", "TorchAttention", "make_backend"]

_HALF = (torch.bfloat16, torch.float16)


def make_backend(
    name: str, model: ModelConfig, block_size: int, device: torch.device, dtype: torch.dtype
) -> AttentionBackend:
    """``name``: auto, torch or cuda. auto takes our kernels where they run. Raises ConfigError for cuda where they do not."""
    problem = _why_not_cuda(model, block_size, device, dtype)
    if name == "cuda" and problem:
        raise ConfigError(f"attention_backend cuda {problem}")
    if name == "torch" or problem:
        return TorchAttention(model.num_heads, model.num_kv_heads, model.head_dim)
    from nanopd.attention.cuda_backend import CudaAttention  # only here: a CPU has no use for the kernels

    return CudaAttention(model.num_heads, model.num_kv_heads, model.head_dim, device)


def _why_not_cuda(model: ModelConfig, block_size: int, device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda" or dtype not in _HALF:
        return f"needs a CUDA device and bfloat16 or float16, got {device} and {dtype}"
    if model.head_dim not in (64, 128, 256):
        return f"needs a head_dim of 64, 128 or 256, got {model.head_dim}"
    if model.num_heads // model.num_kv_heads > 16:
        return f"needs at most 16 query heads per kv head, got {model.num_heads // model.num_kv_heads}"
    if not 8 <= block_size <= 64:
        return f"needs a block_size from 8 to 64, got {block_size}"
    return None
