"""Text to token ids and back, for one model."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders

from nanopd.errors import InvalidRequestError
from nanopd.tokenizer.chat_template import ChatTemplate, Message
from nanopd.tokenizer.detokenizer import IncrementalDetokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's byte fallback


class Tokenizer:
    """A ``tokenizers`` object together with the model's chat template."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """``special_tokens``: bos_token, eos_token, ... by name, as the chat template calls them."""
        special_tokens = special_tokens or {}
        self._backend = backend
        self._template = None if chat_template is None else ChatTemplate(chat_template, special_tokens)
        self.config = {**special_tokens, **({} if chat_template is None else {"chat_template": chat_template})}
        self._added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
        self._byte_of = _byte_alphabet() if isinstance(backend.decoder, decoders.ByteLevel) else None
        eos = special_tokens.get("eos_token")
        self.eos_token_id: int | None = backend.token_to_id(eos) if eos else None
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``; special tokens written in it are recognised. ``add_special_tokens``: a leading BOS if the model has one."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ``token_ids``; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def render_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of a conversation. Raises InvalidRequestError if the model has no template or it refuses the messages."""
        if self._template is None:
            raise InvalidRequestError("this model has no chat template: use completions, or a chat model", "messages")
        return self._template.render(messages, add_generation_prompt, variables)

    def encode_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation; the template itself writes BOS where the model wants it."""
        return self.encode(self.render_chat(messages, add_generation_prompt, variables), add_special_tokens=False)

    def detokenizer(self, skip_special_tokens: bool = True) -> IncrementalDetokenizer:
        """A fresh incremental detokeniser for one output."""
        return IncrementalDetokenizer(lambda ids: self.decode(ids, skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for; empty for an id the vocabulary does not have (models pad their embeddings)."""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece: str | None = self._backend.id_to_token(token_id)
        if piece is None:
            return b""
        if self._byte_of is not None:
            return bytes(self._byte_of[character] for character in piece)
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace("▁", " ").encode()

    def token_text(self, token_id: int) -> str:
        """One token for people to read; a piece of a character is written ``bytes:\\xe2\\x80``, as the OpenAI API does."""
        raw = self.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json`` and ``tokenizer_config.json`` as Hugging Face lays them out: for programs that cannot read a GGUF file."""
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self.config}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: bytes that print stay, the others follow from U+0100 on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
