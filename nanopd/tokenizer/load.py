"""Finds a model's tokenizer: in a GGUF file's metadata, or in a folder as Hugging Face lays it out."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from nanopd.config import EngineConfig
from nanopd.errors import ConfigError
from nanopd.tokenizer.gguf_vocab import build_tokenizer
from nanopd.tokenizer.placeholder import placeholder_tokenizer
from nanopd.tokenizer.tokenizer import Tokenizer
from nanopd.weights import ModelFormat, load_config, resolve_model
from nanopd.weights.gguf_file import read_gguf


def load_tokenizer(engine: EngineConfig) -> Tokenizer:
    """The tokenizer of the engine's model; for random weights without one, a placeholder.

    Raises UnknownModelError, and ConfigError (UnsupportedModelError) naming what is missing.
    """
    source = resolve_model(engine.model)
    if source.format is ModelFormat.GGUF:
        return _from_gguf(source.path)
    if engine.load_format == "dummy" and not (source.path / "tokenizer.json").exists():
        return placeholder_tokenizer(load_config(source).vocab_size)
    return _from_folder(source.path)


def _from_gguf(path: Path) -> Tokenizer:
    metadata = read_gguf(path).metadata
    backend = build_tokenizer(metadata)
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # Hugging Face's: GGUF's
    ids = {name: metadata.get(f"tokenizer.ggml.{theirs}_token_id") for name, theirs in names.items()}
    special = {f"{name}_token": tokens[index] for name, index in ids.items() if index is not None}
    default_bos = metadata["tokenizer.ggml.model"] == "llama" or metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    if metadata.get("tokenizer.ggml.add_bos_token", default_bos) and ids["bos"] is not None:
        bos = special["bos_token"]
        backend.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, ids["bos"])])
    return Tokenizer(backend, chat_template=metadata.get("tokenizer.chat_template"), special_tokens=special)


def _from_folder(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.exists():
        raise ConfigError(f"no tokenizer.json in {folder}")
    config = _read_json(folder / "tokenizer_config.json")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: _token_text(config[name]) for name in names if config.get(name)}
    return Tokenizer(
        tokenizers.Tokenizer.from_file(str(file)), chat_template=_chat_template(folder, config), special_tokens=special
    )


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _token_text(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content
