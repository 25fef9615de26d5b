import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import dummy_folder, tiny_config

from nanopd.errors import ConfigError
from nanopd.weights import converted, load_config, resolve_model
from nanopd.weights.dummy import dummy_tensors
from nanopd.weights.loader import load_weights
from nanopd.weights.parameters import parameters

CPU = torch.device("cpu")


def checkpoint_tensors(config):
    """As a Hugging Face checkpoint holds them: one tensor per part."""
    torch.manual_seed(1)
    return {part: torch.randn(rows, *p.shape[1:]) for p in parameters(config) for part, rows in p.parts}


@pytest.fixture
def folder(tmp_path):
    dummy_folder(tmp_path)
    return tmp_path


def load(folder, tensors, dtype=torch.float32):
    save_file(tensors, folder / "model.safetensors")
    source = resolve_model(str(folder))
    return load_weights(source, load_config(source), dtype, CPU)


def test_parts_are_stacked_in_order(folder):
    parts = checkpoint_tensors(tiny_config())
    tensors = load(folder, parts)
    prefix = "model.layers.1.self_attn."
    expected = torch.cat([parts[f"{prefix}{name}_proj.weight"] for name in "qkv"])
    assert torch.equal(tensors["layers.1.qkv.weight"], expected)
    assert {p.name: p.shape for p in parameters(tiny_config())} == {name: tuple(t.shape) for name, t in tensors.items()}


def test_converts_to_the_dtype_asked_for(folder):
    parts = checkpoint_tensors(tiny_config())
    tensors = load(folder, parts, torch.bfloat16)
    assert torch.equal(tensors["embed.weight"], parts["model.embed_tokens.weight"].bfloat16())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks 1 tensors: model.norm.weight"),
        (
            lambda t: t.update({"model.layers.0.mlp.router.weight": torch.ones(1)}),
            "holds 1 tensors .* model.layers.0.mlp.router.weight",
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.ones(3, 48)}),
            r"lm_head.weight must have shape \(97, 48\), got \(3, 48\)",
        ),
    ],
)
def test_names_what_is_missing_unknown_or_of_another_shape(folder, change, sentence):
    tensors = checkpoint_tensors(tiny_config())
    change(tensors)
    with pytest.raises(ConfigError, match=sentence):
        load(folder, tensors)


def test_derived_buffers_and_a_tied_head_are_left_aside(tmp_path):
    dummy_folder(tmp_path, tie_word_embeddings=True)
    tensors = checkpoint_tensors(tiny_config(tie_word_embeddings=True))
    tensors["lm_head.weight"] = torch.zeros(97, 48)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    assert "lm_head.weight" not in load(tmp_path, tensors)


def test_a_folder_without_weights_or_with_a_lost_shard_is_refused(folder):
    source = resolve_model(str(folder))
    with pytest.raises(ConfigError, match="no .safetensors files"):
        load_weights(source, load_config(source), torch.float32, CPU)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    with pytest.raises(ConfigError, match="lacks model-00001-of-00001.safetensors"):
        load_weights(source, load_config(source), torch.float32, CPU)


def test_the_load_format_must_fit_the_source(folder):
    source = resolve_model(str(folder))
    with pytest.raises(ConfigError, match="load_format gguf does not fit"):
        load_weights(source, load_config(source), torch.float32, CPU, "gguf")


def test_dummy_weights_are_a_function_of_the_seed():
    config = tiny_config(has_attention_bias=True)
    one, same, other = (dummy_tensors(config, torch.float32, CPU, seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["layers.0.qkv.weight"], other["layers.0.qkv.weight"])
    assert one["layers.0.input_norm.weight"].eq(1).all() and one["layers.0.qkv.bias"].eq(0).all()


def test_converted_weights_are_kept_and_made_anew_when_damaged_or_stale(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOPD_CACHE_DIR", str(tmp_path / "cache"))
    model = tmp_path / "m.gguf"
    model.write_bytes(b"one")
    calls = []

    def convert():
        calls.append(1)
        return {"x": torch.full((4,), float(len(calls)))}

    assert converted.cached_tensors(model, torch.float32, convert)["x"][0] == 1
    assert converted.cached_tensors(model, torch.float32, convert)["x"][0] == 1
    (kept,) = (tmp_path / "cache" / "weights").iterdir()  # nothing half-written beside it
    assert load_file(kept)["x"][0] == 1
    kept.write_bytes(b"damaged")
    assert converted.cached_tensors(model, torch.float32, convert)["x"][0] == 2
    assert converted.cached_tensors(model, torch.bfloat16, convert)["x"][0] == 3
    model.write_bytes(b"another file")
    assert converted.cached_tensors(model, torch.float32, convert)["x"][0] == 4


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOPD_CACHE_DIR", str(tmp_path / "file"))
    assert converted.cached_tensors(tmp_path / "file", torch.float32, lambda: {"x": torch.ones(2)})["x"].tolist() == [
        1,
        1,
    ]
