"""One step on a device: batch -> tensors -> tokens."""

from nanopd.model_runner.runner import ModelRunner

__all__ = ["ModelRunner"]
