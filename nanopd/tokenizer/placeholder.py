"""A stand-in for models with random weights, of which only the shape is known: every token has a name and no meaning."""

import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from nanopd.tokenizer.tokenizer import Tokenizer


def placeholder_tokenizer(vocab_size: int) -> Tokenizer:
    """Token i is written ``ti``, tokens are separated by spaces; any other word is t0."""
    backend = tokenizers.Tokenizer(WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t0"))
    backend.pre_tokenizer = WhitespaceSplit()
    return Tokenizer(backend, chat_template="{% for message in messages %}{{ message.content }} {% endfor %}")
