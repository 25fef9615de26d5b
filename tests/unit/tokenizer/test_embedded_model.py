"""The embedded model's GGUF vocabulary against prompts tokenised by the reference implementation."""

import json
from pathlib import Path

import pytest

from nanopd.config import EngineConfig
from nanopd.tokenizer import Tokenizer, load_tokenizer

REFERENCE = json.loads((Path(__file__).parents[2] / "data" / "smollm2_greedy_reference.json").read_text())
PROMPTS = REFERENCE["prompts"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(EngineConfig())


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_encodes_as_the_reference(tokenizer: Tokenizer, prompt: dict) -> None:
    assert tokenizer.encode(prompt["text"]) == prompt["prompt_ids"]


@pytest.mark.parametrize("prompt", [prompt for prompt in PROMPTS if prompt["kind"] == "chat"])
def test_chat_template_gives_the_references_prompt(tokenizer: Tokenizer, prompt: dict) -> None:
    assert tokenizer.encode_chat(prompt["messages"]) == prompt["prompt_ids"]


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_decodes_as_the_reference_whole_and_token_by_token(tokenizer: Tokenizer, prompt: dict) -> None:
    detokenizer = tokenizer.detokenizer(skip_special_tokens=False)
    pieces = [detokenizer.push(token) for token in prompt["output_ids"]]
    assert tokenizer.decode(prompt["output_ids"], skip_special_tokens=False) == prompt["output_text"]
    assert "".join(pieces) + detokenizer.flush() == prompt["output_text"]


def test_special_tokens_are_one_token_each_and_left_out_of_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_start|>hi<|im_end|>") == [1, 6004, 2]
    assert tokenizer.decode([1, 6004, 2]) == "hi"
    assert tokenizer.eos_token_id == 2


def test_bytes_of_tokens_make_up_the_text(tokenizer: Tokenizer) -> None:
    text = "naïve 🙂 日本語\n\tend"
    ids = tokenizer.encode(text)
    assert b"".join(tokenizer.token_bytes(token) for token in ids).decode() == text
    assert any(
        tokenizer.token_text(token).startswith("bytes:\\x") for token in ids
    )  # the emoji takes more than one token
