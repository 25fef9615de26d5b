"""nanopd: a prefill/decode-disaggregated LLM inference engine, small enough to read in an afternoon."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "AsyncLLM", "SamplingParams", "__version__"]
_HOMES = {"LLM": "nanopd.llm", "AsyncLLM": "nanopd.llm", "SamplingParams": "nanopd.request"}

if TYPE_CHECKING:
    from nanopd.llm import LLM, AsyncLLM
    from nanopd.request import SamplingParams


def __getattr__(name: str) -> Any:
    """Loads on first use, so that ``import nanopd`` (and the simulator) stays light."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nanopd' has no attribute {name!r}")
