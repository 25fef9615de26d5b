"""Weights of a model as our fused tensors, on their device in their dtype."""

import torch

from nanopd.config import ModelConfig
from nanopd.errors import ConfigError
from nanopd.weights.checkpoint import Checkpoint, SafetensorsCheckpoint
from nanopd.weights.converted import cached_tensors
from nanopd.weights.dummy import dummy_tensors
from nanopd.weights.gguf_checkpoint import GgufCheckpoint
from nanopd.weights.gguf_file import read_gguf
from nanopd.weights.parameters import Parameter, parameters
from nanopd.weights.source import ModelFormat, ModelSource

# Buffers some checkpoints carry although they follow from the configuration.
_DERIVED = ("rotary_emb.inv_freq", "attn.masked_bias", "attention.bias")


def load_weights(
    source: ModelSource, config: ModelConfig, dtype: torch.dtype, device: torch.device, load_format: str = "auto"
) -> dict[str, torch.Tensor]:
    """All tensors ``parameters(config)`` lists, by our names.

    ``load_format``: auto (by the source), safetensors, gguf or dummy (random, for speed work). Raises ConfigError when tensors are missing,
    unknown or of another shape than the configuration says.
    """
    if load_format == "dummy":
        return dummy_tensors(config, dtype, device)
    if load_format != "auto" and (load_format == "gguf") != (source.format is ModelFormat.GGUF):
        raise ConfigError(f"load_format {load_format} does not fit {source.path}, which is in {source.format} format")
    if source.format is ModelFormat.HUGGINGFACE:
        return fuse(SafetensorsCheckpoint(source.path, device), config, dtype, device)

    def convert() -> dict[str, torch.Tensor]:
        return fuse(GgufCheckpoint(read_gguf(source.path), config), config, dtype, torch.device("cpu"))

    return {name: tensor.to(device) for name, tensor in cached_tensors(source.path, dtype, convert).items()}


def fuse(
    checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    """Stacks the parts of each parameter into one tensor."""
    wanted = parameters(config)
    _check_names(checkpoint, config, wanted)
    tensors = {}
    for parameter in wanted:
        fused = torch.empty(parameter.shape, dtype=dtype, device=device)
        start = 0
        for part, rows in parameter.parts:
            tensor = checkpoint.read(part)
            expected = (rows, *parameter.shape[1:])
            if tuple(tensor.shape) != expected:
                raise ConfigError(f"tensor {part} must have shape {expected}, got {tuple(tensor.shape)}")
            fused[start : start + rows].copy_(tensor)
            start += rows
        tensors[parameter.name] = fused
    return tensors


def _check_names(checkpoint: Checkpoint, config: ModelConfig, wanted: list[Parameter]) -> None:
    names = set(checkpoint.names())
    needed = {part for parameter in wanted for part, _ in parameter.parts}
    if missing := sorted(needed - names):
        raise ConfigError(f"the checkpoint lacks {len(missing)} tensors: {_some(missing)}")
    unknown = {name for name in names - needed if not name.endswith(_DERIVED)}
    if config.tie_word_embeddings:
        unknown.discard("lm_head.weight")  # a copy of the embedding
    if unknown:
        raise ConfigError(
            f"the checkpoint holds {len(unknown)} tensors the configuration does not explain: {_some(sorted(unknown))}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
