"""The GGUF container: metadata and the tensor directory, read from a memory map in a fraction of a second.

The ``gguf`` package dequantises for us, but its reader turns each of 100,000 vocabulary strings into numpy arrays (seconds for a file that the
CLI, the tokenizer and every worker open). Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanopd.errors import ConfigError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A directory entry. ``shape`` is row-major (the reverse of GGUF's order); ``offset`` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    type_id: int  # gguf.GGMLQuantizationType
    offset: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a GGUF file says about itself."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def bytes_at(self, offset: int, num_bytes: int) -> np.ndarray:
        """A read-only uint8 view of the mapped file."""
        return np.memmap(self.path, dtype=np.uint8, mode="r", offset=offset, shape=(num_bytes,))


def read_gguf(path: Path) -> GgufFile:
    """Reads metadata and tensor directory. Raises ConfigError when the file is not GGUF or is cut short."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ConfigError(f"{path} is not a GGUF file: its first bytes must be b'GGUF', got {data[:4]!r}")
        try:
            return _Cursor(data).read_file(path)
        except struct.error as error:
            raise ConfigError(f"{path} is cut short: {error}") from error


class _Cursor:
    """A position in the mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 4

    def read_file(self, path: Path) -> GgufFile:
        version = self.scalar(_U32)
        if version not in (2, 3):
            raise ConfigError(f"GGUF version must be 2 or 3, got {version} in {path}")
        num_tensors, num_entries = self.scalar(_U64), self.scalar(_U64)
        metadata = {}
        for _ in range(num_entries):
            key = self.string()
            metadata[key] = self.value(self.scalar(_U32))
        entries = [self.tensor_entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        start = -(-self.at // alignment) * alignment
        tensors = {name: GgufTensor(name, shape, type_id, start + offset) for name, shape, type_id, offset in entries}
        return GgufFile(path, metadata, tensors)

    def tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string()
        dimensions = [self.scalar(_U64) for _ in range(self.scalar(_U32))]
        return name, tuple(reversed(dimensions)), self.scalar(_U32), self.scalar(_U64)

    def scalar(self, kind: struct.Struct) -> Any:
        (value,) = kind.unpack_from(self.data, self.at)
        self.at += kind.size
        return value

    def string(self) -> str:
        length = self.scalar(_U64)
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise ConfigError(f"GGUF value type must be one of {sorted(_SCALARS) + [_STRING, _ARRAY]}, got {kind}")
        return self.scalar(struct.Struct("<" + _SCALARS[kind]))

    def array(self) -> list[Any]:
        kind, length = self.scalar(_U32), self.scalar(_U64)
        if kind not in _SCALARS:
            return [self.value(kind) for _ in range(length)]
        return list(self.scalars(struct.Struct(f"<{length}{_SCALARS[kind]}")))

    def scalars(self, layout: struct.Struct) -> tuple[Any, ...]:
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values
