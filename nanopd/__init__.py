"""nanopd: a prefill/decode-disaggregated LLM inference engine, small enough to read in an afternoon."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "AsyncLLM", "SamplingParams", "__version__"]

if TYPE_CHECKING:
    from nanopd.llm import LLM, AsyncLLM
    from nanopd.request import SamplingParams


def __getattr__(name: str) -> Any:
    """Loads on first use, so that ``import nanopd`` (and the simulator) stays light."""
    if name in ("LLM", "AsyncLLM"):
        from nanopd import llm

        return getattr(llm, name)
    if name == "SamplingParams":
        from nanopd.request import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'nanopd' has no attribute {name!r}")
