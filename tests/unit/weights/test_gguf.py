"""GGUF files written with the gguf package: every tensor type, names, q/k order, what is refused."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from support.tiny_models import tiny_config

from nanopd.errors import ConfigError, UnsupportedModelError
from nanopd.weights.config import config_from_gguf
from nanopd.weights.gguf_checkpoint import GgufCheckpoint, unpermute_rows
from nanopd.weights.gguf_file import read_gguf

CONFIG = tiny_config()
LAYER = {"attn_q": (64, 256), "attn_k": (32, 256), "ffn_up": (80, 256)}


def random_blocks(kind, shape, rng):
    """Quantised bytes; where gguf has no quantiser (K quants), random codes under sane half-precision scales."""
    values = rng.normal(size=shape).astype(np.float32)
    try:
        return quantize(values, kind)
    except NotImplementedError:
        block_values, block_bytes = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (np.prod(shape) // block_values, block_bytes), dtype=np.uint8)
        scales = slice(0, 4) if kind is GGMLQuantizationType.Q4_K else slice(-2, None)
        blocks[:, scales] = (
            rng.normal(size=(len(blocks), (scales.stop or 0) - scales.start >> 1)).astype(np.float16).view(np.uint8)
        )
        return blocks.reshape(shape[0], -1)


def write(path, kind=GGMLQuantizationType.F32, architecture="llama", extra_metadata=(), tensors=()):
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(80)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["<s>", "</s>", "b\u00e4r"])
    writer.add_eos_token_id(1)
    for key, value in extra_metadata:
        writer.add_key_value(key, value, {str: 8, float: 6, int: 4}[type(value)])
    data = {"token_embd.weight": random_blocks(GGMLQuantizationType.F32, (3, 256), rng)}
    data |= {f"blk.0.{name}.weight": random_blocks(kind, shape, rng) for name, shape in LAYER.items()}
    for name, values in data.items():
        writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType.F32 if name.startswith("token") else kind)
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return data


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"])
def test_tensors_are_what_gguf_dequantises(tmp_path, kind):
    kind = GGMLQuantizationType[kind]
    data = write(tmp_path / "m.gguf", kind)
    file = read_gguf(tmp_path / "m.gguf")
    checkpoint = GgufCheckpoint(file, config_from_gguf(file))
    expected = torch.from_numpy(dequantize(data["blk.0.ffn_up.weight"], kind).copy())
    got = checkpoint.read("model.layers.0.mlp.up_proj.weight")
    assert got.dtype == torch.float32 and expected.isfinite().all() and expected.abs().max() > 0.1
    assert torch.equal(got, expected)


@pytest.mark.parametrize(("architecture", "permuted"), [("llama", True), ("qwen2", False)])
def test_q_and_k_rows_are_put_back_in_order(tmp_path, architecture, permuted):
    data = write(tmp_path / "m.gguf", architecture=architecture)
    file = read_gguf(tmp_path / "m.gguf")
    checkpoint = GgufCheckpoint(file, config_from_gguf(file))
    for ours, theirs, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        stored = torch.from_numpy(data[f"blk.0.{theirs}.weight"])
        got = checkpoint.read(f"model.layers.0.self_attn.{ours}.weight")
        if not permuted:
            assert torch.equal(got, stored)
            continue
        # llama.cpp's convert_hf_to_gguf.py: reshape(heads, 2, dim / 2, in).swapaxes(1, 2)
        again = got.reshape(heads, 2, got.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(got.shape)
        assert torch.equal(again, stored) and not torch.equal(got, stored)


def test_permutation_covers_biases():
    assert unpermute_rows(torch.arange(8.0), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_metadata_and_flags(tmp_path):
    q_bias, norm = np.zeros(64, np.float32), np.zeros(16, np.float32)
    extra = [("qwen3.rope.scaling.type", "yarn"), ("qwen3.rope.scaling.factor", 4.0), ("qwen3.rope.freq_base", 1e6)]
    extra.append(("qwen3.rope.scaling.original_context_length", 32))
    tensors = [
        ("blk.0.attn_q.bias", q_bias),
        ("blk.0.attn_q_norm.weight", norm),
        ("output.weight", np.zeros((3, 256), np.float32)),
    ]
    write(tmp_path / "m.gguf", architecture="qwen3", extra_metadata=extra, tensors=tensors)
    file = read_gguf(tmp_path / "m.gguf")
    assert file.metadata["tokenizer.ggml.tokens"] == ["<s>", "</s>", "b\u00e4r"]
    config = config_from_gguf(file)
    assert (config.vocab_size, config.hidden_size, config.head_dim, config.max_position) == (3, 256, 16, 128)
    assert (
        config.has_qk_norm and config.has_attention_bias and not config.tie_word_embeddings and not config.has_mlp_bias
    )
    assert config.rope_scaling.kind == "yarn" and config.rope_scaling.original_max_position == 32
    assert config.rope_theta == 1e6 and config.eos_token_ids == (1,)


def test_refuses_what_it_cannot_read(tmp_path):
    path = tmp_path / "m.gguf"
    write(path, architecture="mamba")
    with pytest.raises(
        UnsupportedModelError, match="general.architecture must be one of llama, qwen2, qwen3, got 'mamba'"
    ):
        config_from_gguf(read_gguf(path))
    write(path, tensors=[("rope_freqs.weight", np.ones(8, np.float32))])
    with pytest.raises(UnsupportedModelError, match="rope_freqs.weight"):
        config_from_gguf(read_gguf(path))
    write(path, GGMLQuantizationType.Q5_0)
    file = read_gguf(path)
    with pytest.raises(UnsupportedModelError, match="must be one of F32, F16, .*got Q5_0 for blk.0.ffn_up.weight"):
        GgufCheckpoint(file, config_from_gguf(file)).read("model.layers.0.mlp.up_proj.weight")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ConfigError, match="cut short"):
        read_gguf(path)
