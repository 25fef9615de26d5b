"""A ``ModelConfig`` from the files of a model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanopd.config import ModelConfig, RopeScaling
from nanopd.errors import ConfigError, UnsupportedModelError
from nanopd.weights.gguf_file import GgufFile, read_gguf
from nanopd.weights.source import ModelFormat, ModelSource

_GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")


def load_config(source: ModelSource) -> ModelConfig:
    """Raises ConfigError for files that cannot be read, UnsupportedModelError for what nanopd does not implement."""
    if source.format is ModelFormat.GGUF:
        return config_from_gguf(read_gguf(source.path))
    config = ModelConfig.from_hf(_read_json(source.path / "config.json"))
    generation = source.path / "generation_config.json"
    if not generation.is_file():
        return config
    # Chat models often name their end-of-turn token only here.
    eos = _read_json(generation).get("eos_token_id")
    extra = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
    return replace(config, eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *extra))))


def config_from_gguf(file: GgufFile) -> ModelConfig:
    """Sizes from the metadata, flags from which tensors the directory lists."""
    metadata, tensors = file.metadata, file.tensors
    family = metadata.get("general.architecture", "")
    if family not in _GGUF_ARCHITECTURES:
        raise UnsupportedModelError(
            f"general.architecture must be one of {', '.join(_GGUF_ARCHITECTURES)}, got {family!r} in {file.path}"
        )

    def size(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{family}.{key}", default)
        if value is None:
            raise ConfigError(f"{file.path} lacks the metadata {family}.{key}")
        return int(value)

    num_heads = size("attention.head_count")
    head_dim = size("attention.key_length", size("embedding_length") // num_heads)
    if (rotary_dim := size("rope.dimension_count", head_dim)) != head_dim:
        raise UnsupportedModelError(f"rope.dimension_count must equal the head dimension {head_dim}, got {rotary_dim}")
    if "rope_freqs.weight" in tensors:
        raise UnsupportedModelError(
            f"{file.path} scales rotary frequencies by a tensor (rope_freqs.weight); use the safetensors of this model"
        )
    eos = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")]
    return ModelConfig(
        family=family,
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=size("embedding_length"),
        intermediate_size=size("feed_forward_length"),
        num_layers=size("block_count"),
        num_heads=num_heads,
        num_kv_heads=size("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        max_position=size("context_length"),
        rms_norm_eps=float(metadata[f"{family}.attention.layer_norm_rms_epsilon"]),
        rope_theta=float(metadata.get(f"{family}.rope.freq_base", 10000.0)),
        rope_scaling=_gguf_rope_scaling(metadata, family),
        tie_word_embeddings="output.weight" not in tensors,
        has_qk_norm="blk.0.attn_q_norm.weight" in tensors,
        has_attention_bias="blk.0.attn_q.bias" in tensors,
        has_output_bias="blk.0.attn_output.bias" in tensors,
        has_mlp_bias="blk.0.ffn_up.bias" in tensors,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=tuple(dict.fromkeys(token for token in eos if token is not None)),
    )


def _gguf_rope_scaling(metadata: dict[str, Any], family: str) -> RopeScaling | None:
    prefix = f"{family}.rope.scaling."
    kind = metadata.get(prefix + "type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(f"{prefix}type must be one of none, linear, yarn, got {kind!r}")
    return RopeScaling(
        kind=kind,
        factor=float(metadata[prefix + "factor"]),
        original_max_position=int(
            metadata.get(prefix + "original_context_length", metadata[f"{family}.context_length"])
        ),
        attention_factor=metadata.get(prefix + "attn_factor"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
