"""Logits of tiny random models of each family against transformers', through safetensors on disk."""

import pytest
import torch
from support.tiny_models import batch, block_table, greedy_spec, piece
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from nanopd.config import CacheConfig, EngineConfig
from nanopd.model_runner import ModelRunner

SIZES = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama-tied-biased": (
        LlamaForCausalLM,
        LlamaConfig,
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-llama3-rope": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LLAMA3}),
    "llama-yarn": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": YARN}),
    "llama-linear-rope": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LINEAR, "head_dim": 16}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen2-tied": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 32}),
    "qwen3-yarn-sharded": (
        Qwen3ForCausalLM,
        Qwen3Config,
        {"head_dim": 16, "rope_parameters": YARN, "tie_word_embeddings": True},
    ),
}


def make_model(folder, name):
    model_class, config_class, changes = MODELS[name]
    torch.manual_seed(sorted(MODELS).index(name))
    model = model_class(config_class(**SIZES, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which transformers starts at 0 and 1
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.05))
    model.save_pretrained(folder, max_shard_size="50KB" if "sharded" in name else "1GB")
    return model


@pytest.mark.parametrize("name", MODELS)
def test_logits_agree_at_every_position(tmp_path, name):
    model = make_model(tmp_path, name)
    assert ("sharded" in name) == (len(list(tmp_path.glob("*.safetensors"))) > 1)
    config = EngineConfig(
        model=str(tmp_path),
        dtype="float32",
        device="cpu",
        num_threads=1,
        cache=CacheConfig(block_size=16, num_blocks=32),
    )
    runner = ModelRunner.load(config)
    token_ids = torch.randint(
        0, SIZES["vocab_size"], (300,)
    ).tolist()  # beyond the original context of the scaled models
    seen = []
    decoder = runner._decoder
    forward = decoder.forward

    def remembering(token_ids, geometry, kv, rows=None):
        seen.append(forward(token_ids, geometry, kv))  # of all positions, not only of those that are sampled
        return seen[-1] if rows is None else seen[-1][rows]

    decoder.forward = remembering
    table = block_table(*range(31, 11, -1))
    for start, end in ((0, 130), (130, 299), (299, 300)):  # whole chunk, chunk on cached context, decode
        runner.submit(batch(piece("a", token_ids[start:end], start, table, greedy_spec()))).result()
    with torch.inference_mode():
        ours = decoder.logits(torch.cat(seen))
        theirs = model(torch.tensor([token_ids])).logits[0]
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
