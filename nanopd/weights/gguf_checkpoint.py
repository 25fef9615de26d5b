"""A GGUF file as a checkpoint: names translated, blocks dequantised, llama's q/k rows put back in order."""

import re
from collections.abc import Collection
from math import prod

import numpy as np
import torch

from nanopd.config import ModelConfig
from nanopd.errors import UnsupportedModelError
from nanopd.weights.gguf_file import GgufFile

_SUPPORTED = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")

_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufCheckpoint:
    """Reads float32 tensors out of a GGUF file."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self._file = file
        self._tensors = {_hf_name(name): tensor for name, tensor in file.tensors.items()}
        # llama.cpp's converter interleaves the rotary halves of q and k for the llama architecture only.
        self._heads_of_permuted = (
            {"q_proj": config.num_heads, "k_proj": config.num_kv_heads} if config.family == "llama" else {}
        )

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def read(self, name: str) -> torch.Tensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        entry = self._tensors[name]
        kind = GGMLQuantizationType(entry.type_id)
        if kind.name not in _SUPPORTED:
            raise UnsupportedModelError(
                f"GGUF tensor type must be one of {', '.join(_SUPPORTED)}, got {kind.name} for {entry.name}"
            )
        block_values, block_bytes = GGML_QUANT_SIZES[kind]
        data = self._file.bytes_at(entry.offset, prod(entry.shape) // block_values * block_bytes)
        tensor = torch.from_numpy(np.array(dequantize(data, kind), dtype=np.float32)).reshape(entry.shape)
        for part, num_heads in self._heads_of_permuted.items():
            if f".{part}." in name:
                return unpermute_rows(tensor, num_heads)
        return tensor


def unpermute_rows(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """From pairs (0, half), (1, half + 1) ... side by side, within each head, back to the two halves one after the other."""
    pairs = tensor.reshape(num_heads, tensor.shape[0] // num_heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _hf_name(name: str) -> str:
    """Names without a translation stay as they are, and are reported as unknown tensors by the loader."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{kind}"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if match and match[2] in _LAYER_NAMES:
        return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{kind}"
    return name
