"""Random weights of any configuration, for speed work without a checkpoint."""

import torch

from nanopd.config import ModelConfig
from nanopd.weights.parameters import Parameter, parameters


def dummy_tensors(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Made on the device. Scaled so that activations keep unit size through all layers and logits spread over a few units."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return {p.name: _random(p, config, dtype, device, generator) for p in parameters(config)}


def _random(
    parameter: Parameter, config: ModelConfig, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
    if parameter.num_columns is None:
        return tensor.fill_(1.0 if "norm" in parameter.name else 0.0)
    scale = parameter.num_columns**-0.5
    if parameter.name.endswith(("o.weight", "down.weight")):
        scale *= (2 * config.num_layers) ** -0.5  # each layer adds twice to the residual stream
    return tensor.normal_(0.0, scale, generator=generator)
