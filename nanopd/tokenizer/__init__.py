"""Text to tokens and back: vocabularies from tokenizer.json or GGUF, chat templates, incremental detokenisation, stop strings."""

from nanopd.tokenizer.load import load_tokenizer
from nanopd.tokenizer.output_processor import OutputDelta, OutputProcessor
from nanopd.tokenizer.tokenizer import Tokenizer

__all__ = ["OutputDelta", "OutputProcessor", "Tokenizer", "load_tokenizer"]
