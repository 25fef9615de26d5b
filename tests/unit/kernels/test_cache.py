"""The cubin cache: whole files or none, whoever else is writing."""

import multiprocessing
import os
from pathlib import Path

from nanopd.kernels.cache import CubinCache, default_cache_dir


def test_get_returns_what_put_stored(tmp_path: Path) -> None:
    cache = CubinCache(tmp_path / "not" / "there" / "yet")
    assert cache.get("key") is None
    cache.put("key", b"machine code")
    assert cache.get("key") == b"machine code"
    assert os.listdir(cache.folder) == ["key.cubin"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    cache = CubinCache(tmp_path)
    try:
        cache.put("key", b"machine code")
    except OSError as error:
        assert "disk full" in str(error)
    else:
        raise AssertionError("the error must reach the caller")
    assert cache.get("key") is None
    assert os.listdir(tmp_path) == []


def _write_many(folder: Path, content: bytes) -> None:
    for _ in range(100):
        CubinCache(folder).put("key", content)


def test_readers_never_see_part_of_a_file(tmp_path: Path) -> None:
    contents = [bytes([value]) * 200_000 for value in (1, 2)]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path, content)) for content in contents]
    for writer in writers:
        writer.start()
    cache, seen = CubinCache(tmp_path), set()
    while any(writer.is_alive() for writer in writers):
        seen.add(cache.get("key"))
    for writer in writers:
        writer.join()
    assert seen <= {None, *contents}
    assert cache.get("key") in contents
    assert os.listdir(tmp_path) == ["key.cubin"]


def test_folder_follows_the_environment(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NANOPD_CACHE_DIR", str(tmp_path))
    assert default_cache_dir() == tmp_path / "kernels"
    monkeypatch.delenv("NANOPD_CACHE_DIR")
    assert default_cache_dir() == Path.home() / ".cache" / "nanopd" / "kernels"
