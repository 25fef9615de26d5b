import json
from pathlib import Path

import pytest
import tokenizers
from support.tiny_tokenizer import tiny_tokenizer

from nanopd.config import EngineConfig
from nanopd.errors import ConfigError, UnknownModelError
from nanopd.tokenizer import load_tokenizer

CONFIG = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer()._backend.to_str())
    return tmp_path


def load(folder: Path, **options: str):  # noqa: ANN201
    return load_tokenizer(EngineConfig(model=str(folder), **options))


def test_folder_with_a_template_in_the_config(folder: Path) -> None:
    config = {"chat_template": "{{ eos_token }}|{{ messages[0].content }}", "eos_token": {"content": "<|im_end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load(folder)
    assert tokenizer.render_chat([{"role": "user", "content": "Hi"}]) == "<|im_end|>|Hi"
    assert tokenizer.encode("Hi<|im_end|>") == [72, 105, 257]
    assert tokenizer.eos_token_id == 257


def test_folder_with_named_templates(folder: Path) -> None:
    templates = [{"name": "rag", "template": "rag"}, {"name": "default", "template": "plain"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert load(folder).render_chat([{"role": "user", "content": "Hi"}]) == "plain"


def test_folder_with_a_template_file_which_wins(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    (folder / "chat_template.jinja").write_text("new")
    assert load(folder).render_chat([{"role": "user", "content": "Hi"}]) == "new"


def test_folder_without_a_template(folder: Path) -> None:
    tokenizer = load(folder)
    assert not tokenizer.has_chat_template
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.encode_chat([{"role": "user", "content": "Hi"}])


def test_folder_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer\.json in"):
        load(folder)
    placeholder = load(folder, load_format="dummy")  # random weights need no real one
    assert placeholder.vocab_size == 40
    assert placeholder.encode("t7 t39") == [7, 39]
    assert placeholder.decode([7, 39]) == "t7 t39"


def test_no_such_model() -> None:
    with pytest.raises(UnknownModelError, match="nowhere"):
        load_tokenizer(EngineConfig(model="./nowhere"))


def test_a_saved_tokenizer_is_read_back_the_same(tmp_path: Path) -> None:
    embedded = load_tokenizer(EngineConfig())
    embedded.save(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Name 3 colours: naïve, 猫. <|im_end|>"
    assert backend.encode(text).ids == embedded.encode(text)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>"
    assert config["chat_template"] == embedded.config["chat_template"]
