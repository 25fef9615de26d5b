"""Dequantised GGUF weights, kept on disk so that every worker after the first maps them in milliseconds.

The copy is one safetensors file of fused tensors in the model's dtype, in the folder ``weights`` of ``$NANOPD_CACHE_DIR`` (default
``~/.cache/nanopd``). Workers of one machine map the same file, so the weights are in memory once.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

_VERSION = 1  # raise when names, layout or conversion change


def cached_tensors(
    path: Path, dtype: torch.dtype, convert: Callable[[], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """What ``convert`` returns for the model file ``path``, from the cache when it is there. A cache that cannot be written is done without."""
    cached = _cache_path(path, dtype)
    try:
        return load_file(cached)
    except (SafetensorError, OSError):
        pass  # not there yet, or damaged: written anew
    tensors = convert()
    try:
        _save(tensors, cached)
        return load_file(cached)
    except OSError:
        return tensors


def _cache_path(path: Path, dtype: torch.dtype) -> Path:
    root = Path(os.environ.get("NANOPD_CACHE_DIR") or Path.home() / ".cache" / "nanopd")
    stat = path.stat()
    key = f"{_VERSION} {path.resolve()} {stat.st_size} {stat.st_mtime_ns} {dtype}"
    return root / "weights" / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"


def _save(tensors: dict[str, torch.Tensor], target: Path) -> None:
    """Atomic: several workers may convert the same file at once, each moves a whole file into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, temporary)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
