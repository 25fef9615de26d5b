"""Attention on paged KV: one protocol, a torch reference and a CUDA backend."""

import torch

from nanopd.attention.backend import AttentionBackend, AttentionBatch, HeadNorms
from nanopd.attention.torch_backend import TorchAttention
from nanopd.config import ModelConfig
from nanopd.errors import ConfigError

__all__ = ["AttentionBackend", "AttentionBatch", "HeadNorms", "TorchAttention", "make_backend"]

_HALF = (torch.bfloat16, torch.float16)


def make_backend(name: str, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """``name``: auto, torch or cuda. auto takes our kernels where they run: CUDA in bfloat16 or float16."""
    runs_cuda = device.type == "cuda" and dtype in _HALF
    if name == "cuda" and not runs_cuda:
        raise ConfigError(f"attention_backend cuda needs a CUDA device and bfloat16 or float16, got {device} and {dtype}")
    return TorchAttention(model.num_heads, model.num_kv_heads, model.head_dim)
