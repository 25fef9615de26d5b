"""The reading side of a checkpoint: tensors by their Hugging Face names, whatever the file format."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from nanopd.errors import ConfigError


class Checkpoint(Protocol):
    """Named tensors on disk."""

    def names(self) -> Collection[str]: ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor, in the dtype it is stored in."""
        ...


class SafetensorsCheckpoint:
    """A folder of safetensors files, whole or sharded (``model.safetensors.index.json``)."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._files = {}
        for path in _safetensors_files(folder):
            try:
                self._files[path] = safe_open(str(path), framework="pt", device=str(device))
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"cannot read {path}: {error}") from error
        self._where = {name: path for path, file in self._files.items() for name in file.keys()}

    def names(self) -> Collection[str]:
        return self._where.keys()

    def read(self, name: str) -> torch.Tensor:
        return self._files[self._where[name]].get_tensor(name)


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"no .safetensors files in {folder} (--load-format dummy runs a model with random weights)")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)} which its index names")
    return files
