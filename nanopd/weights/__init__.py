"""Where models come from: names to files, files to configurations, files to tensors.

Importing this room does not import torch: the CLI, the server and the tokenizer only need ``resolve_model`` and ``load_config``.
"""

from nanopd.weights.config import load_config
from nanopd.weights.source import ModelFormat, ModelSource, embedded_models, resolve_model

__all__ = ["ModelFormat", "ModelSource", "embedded_models", "load_config", "resolve_model"]
