"""A tokenizer to read with the naked eye: token id = byte value, then two special tokens."""

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from nanopd import tokenizer as room
from nanopd.tokenizer.tokenizer import _byte_alphabet

IM_START, IM_END = 256, 257
VOCAB_SIZE = 258
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'forbidden' %}{{ raise_exception('no such role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> room.Tokenizer:
    backend = Tokenizer(BPE(dict(_byte_alphabet()), []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    return room.Tokenizer(backend, chat_template=chat_template, special_tokens={"eos_token": "<|im_end|>"})
