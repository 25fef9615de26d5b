"""Vocabularies small enough to check by hand."""

import pytest

from nanopd.errors import UnsupportedModelError
from nanopd.tokenizer.gguf_vocab import TokenType, build_tokenizer
from nanopd.tokenizer.tokenizer import Tokenizer, _byte_alphabet


def byte_level(pre: str, merges: list[str], extra: list[str]) -> Tokenizer:
    tokens = [*_byte_alphabet(), *extra]
    return Tokenizer(
        build_tokenizer(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.merges": merges,
            }
        )
    )


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token_text(token) for token in tokenizer.encode(text)]


def test_merges_apply_in_order() -> None:
    tokenizer = byte_level("gpt-2", ["a b", "ab c"], ["ab", "abc"])
    assert pieces(tokenizer, "abcab") == ["abc", "ab"]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [("smollm", ["1", "2", "3", "4"]), ("qwen2", ["1", "2", "3", "4"]), ("llama-bpe", ["123", "4"])],
)
def test_pre_tokenizers_cut_digits_their_own_way(pre: str, expected: list[str]) -> None:
    assert pieces(byte_level(pre, ["1 2", "12 3", "123 4"], ["12", "123", "1234"]), "1234") == expected


def test_llama3_takes_whole_words_from_the_vocabulary_without_merges() -> None:
    assert pieces(byte_level("llama-bpe", [], ["hello"]), "hello") == ["hello"]
    assert pieces(byte_level("qwen2", [], ["hello"]), "hello") == list("hello")


def test_unknown_pre_tokenizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"one of .*qwen2.*, got 'tekken'"):
        byte_level("tekken", [], [])


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="gpt2 or llama, got 't5'"):
        build_tokenizer({"tokenizer.ggml.model": "t5"})


SPECIAL = [("<unk>", TokenType.UNKNOWN, 0.0), ("<s>", TokenType.CONTROL, 0.0), ("</s>", TokenType.CONTROL, 0.0)]
BYTES = [(f"<0x{byte:02X}>", TokenType.BYTE, 0.0) for byte in range(256)]
LETTERS = [(letter, TokenType.NORMAL, -100.0) for letter in "▁abc"]


def sentencepiece(*words: tuple[str, float], **metadata: object) -> Tokenizer:
    rows = [*SPECIAL, *BYTES, *LETTERS, *((word, TokenType.NORMAL, score) for word, score in words)]
    return Tokenizer(
        build_tokenizer(
            {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.tokens": [token for token, _, _ in rows],
                "tokenizer.ggml.token_type": [kind for _, kind, _ in rows],
                "tokenizer.ggml.scores": [score for _, _, score in rows],
                **metadata,
            }
        )
    )


def test_sentencepiece_merges_the_best_score_first() -> None:
    better_right = sentencepiece(("ab", -2.0), ("bc", -1.0))
    assert [better_right.token_bytes(token) for token in better_right.encode("abc")] == [b" ", b"a", b"bc"]
    better_left = sentencepiece(("ab", -1.0), ("bc", -2.0))
    assert [better_left.token_bytes(token) for token in better_left.encode("abc")] == [b" ", b"ab", b"c"]


def test_sentencepiece_round_trip_with_bytes_for_what_it_lacks() -> None:
    tokenizer = sentencepiece(("▁a", -1.0))
    text = "a b🙂 aa"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    detokenizer = tokenizer.detokenizer()
    assert "".join(detokenizer.push(token) for token in ids) + detokenizer.flush() == text
    assert b"".join(tokenizer.token_bytes(token) for token in ids).decode() == f" {text}"


def test_sentencepiece_without_a_leading_space() -> None:
    tokenizer = sentencepiece(**{"tokenizer.ggml.add_space_prefix": False})
    assert [tokenizer.token_text(token) for token in tokenizer.encode("ab")] == ["a", "b"]
    assert tokenizer.decode(tokenizer.encode(" ab")) == " ab"


def test_control_tokens_are_recognised_in_text_and_hidden_from_it() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.encode("</s>") == [2]
    assert tokenizer.decode([2]) == ""
