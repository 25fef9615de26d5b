"""Tiny models of each family: configurations, folders with random weights, and steps built by hand."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanopd.batch import Batch, SampleSpec, SeqSlice
from nanopd.config import ModelConfig
from nanopd.request import SamplingParams

HF_CONFIG = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
}
GREEDY = SamplingParams(temperature=0.0)


def tiny_config(**changes: Any) -> ModelConfig:
    return replace(ModelConfig.from_hf(HF_CONFIG), **changes)


def dummy_folder(folder: Path, **changes: Any) -> str:
    """A model folder for ``load_format="dummy"``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**HF_CONFIG, **changes}))
    return str(folder)


def greedy_spec(uniform: float = 0.0) -> SampleSpec:
    return SampleSpec(GREEDY, uniform, (), ())


def block_table(*block_ids: int) -> array:
    return array("i", block_ids)


def piece(
    name: str, token_ids: Sequence[int], start: int, table: array, sample: SampleSpec | None = None, **options: Any
) -> SeqSlice:
    return SeqSlice(name, token_ids, len(token_ids), start, table, sample=sample, **options)


def batch(*slices: SeqSlice, step_id: int = 0, **options: Any) -> Batch:
    return Batch(step_id, slices, **options)
