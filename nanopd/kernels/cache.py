"""Compiled kernels on disk, one file per content hash, safe for any number of processes."""

import os
import tempfile
from pathlib import Path


def default_cache_dir() -> Path:
    """``$NANOPD_CACHE_DIR/kernels``, else ``~/.cache/nanopd/kernels``."""
    root = os.environ.get("NANOPD_CACHE_DIR")
    return (Path(root) if root else Path.home() / ".cache" / "nanopd") / "kernels"


class CubinCache:
    """A folder of ``<key>.cubin``: readers see a whole file or none, writers may race (equal keys, same bytes)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.cubin"

    def get(self, key: str) -> bytes | None:
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, cubin: bytes) -> None:
        """Write to a temporary name in the same folder, then rename: rename is atomic within a file system."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{key[:16]}-", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(cubin)
            os.replace(temporary, self.path(key))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
