"""Builds a ``tokenizers`` object from the vocabulary inside a GGUF file.

Two kinds: ``gpt2`` (byte-level BPE with stored merges; the pre-tokenizer is named, not stored) and ``llama`` (SentencePiece BPE, whose merges
follow from the scores). Anything else is refused, because a nearly right tokenizer gives silently wrong answers.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from nanopd.errors import UnsupportedModelError


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``"""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# How text is cut before BPE, by ``tokenizer.ggml.pre``: the patterns of the models' own tokenizer.json files.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_SPLIT_PATTERNS = {
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
_PLAIN = ("gpt-2", "phi-2")


def build_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that GGUF ``metadata`` describes. Raises UnsupportedModelError for a kind we cannot reproduce exactly."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(metadata)
    elif kind == "llama":
        tokenizer = _sentencepiece(metadata)
    else:
        raise UnsupportedModelError(f"a GGUF vocabulary must be of kind gpt2 or llama, got {kind!r}")
    # In order of id: an added token that is in the vocabulary keeps its id.
    for token, token_type in _typed_tokens(metadata):
        if token_type in (TokenType.CONTROL, TokenType.UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif token_type == TokenType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    return tokenizer


def _typed_tokens(metadata: dict[str, Any]) -> Iterator[tuple[str, int]]:
    tokens = metadata["tokenizer.ggml.tokens"]
    return zip(tokens, metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens), strict=True)


def _vocabulary(metadata: dict[str, Any]) -> dict[str, int]:
    return {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}


def _byte_level(metadata: dict[str, Any]) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre", "")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(_vocabulary(metadata), merges, ignore_merges=_SPLIT_PATTERNS.get(pre) == _LLAMA3))
    if pre in _SPLIT_PATTERNS:
        split = pre_tokenizers.Split(Regex(_SPLIT_PATTERNS[pre]), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        if _SPLIT_PATTERNS[pre] == _QWEN2:
            tokenizer.normalizer = normalizers.NFC()
    elif pre in _SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif pre in _PLAIN:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        known = ", ".join(sorted((*_SPLIT_PATTERNS, *_SINGLE_DIGITS, *_PLAIN)))
        raise UnsupportedModelError(f"the GGUF pre-tokenizer must be one of {known}, got {pre!r}")
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: dict[str, Any]) -> Tokenizer:
    vocabulary = _vocabulary(metadata)
    unknown = metadata["tokenizer.ggml.tokens"][metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    pieces = [token if kind in (TokenType.NORMAL, TokenType.UNUSED) else "" for token, kind in _typed_tokens(metadata)]
    merges = list(_merges_by_score(pieces, metadata["tokenizer.ggml.scores"]))
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    add_space = metadata.get("tokenizer.ggml.add_space_prefix", True)
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace] if add_space else [replace])
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if add_space else steps)
    return tokenizer


def _merges_by_score(pieces: list[str], scores: list[float]) -> Iterator[tuple[str, str]]:
    """SentencePiece merges the adjacent pair whose union has the best score: the same as ranked merges in order of that score."""
    index = {piece: i for i, piece in enumerate(pieces) if piece}
    ranked = []
    for piece, i in index.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in index and right in index:
                ranked.append((-scores[i], i, index[left], index[right], left, right))
    return ((left, right) for *_rank, left, right in sorted(ranked))
