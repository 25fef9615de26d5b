"""Rotary position embeddings: the table of cosines and sines (attention backends apply it).

RoFormer (arXiv:2104.09864), in the half-split layout of Hugging Face checkpoints: element i is paired with element i + D/2.
"""

import math

import torch

from nanopd.config import ModelConfig, RopeScaling


def cos_sin_table(config: ModelConfig, num_positions: int, device: torch.device) -> torch.Tensor:
    """float32 [num_positions, D]: cos in the first half of each row, sin in the second, times yarn's attention factor."""
    # float32 throughout, as the models were trained: exact arithmetic would drift from them at far positions.
    frequencies = 1.0 / (config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim))
    factor = 1.0
    if config.rope_scaling is not None:
        frequencies = _scaled(frequencies, config.rope_scaling, config)
        factor = _attention_factor(config.rope_scaling)
    angles = torch.outer(torch.arange(num_positions).float(), frequencies)
    return (torch.cat((angles.cos(), angles.sin()), dim=-1) * factor).to(device)


def _scaled(frequencies: torch.Tensor, scaling: RopeScaling, config: ModelConfig) -> torch.Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling)
    assert scaling.kind == "yarn", scaling.kind
    return _yarn(frequencies, scaling, config.head_dim, config.rope_theta)


def _llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Long wavelengths are divided by the factor, short ones kept, those between interpolated (Llama 3.1's model card)."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0.0, 1.0)
    return frequencies * (keep + (1.0 - keep) / scaling.factor)


def _yarn(frequencies: torch.Tensor, scaling: RopeScaling, head_dim: int, theta: float) -> torch.Tensor:
    """NTK-by-parts, arXiv:2309.00071 section 3.2: dimensions that turn more than beta_fast times in the trained context are kept."""

    def dimension(num_turns: float) -> float:
        return head_dim * math.log(scaling.original_max_position / (num_turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2).float() - low) / max(high - low, 0.001)
    keep = 1.0 - ramp.clamp(0.0, 1.0)
    return frequencies * (keep + (1.0 - keep) / scaling.factor)


def _attention_factor(scaling: RopeScaling) -> float:
    if scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1.0 else 1.0
