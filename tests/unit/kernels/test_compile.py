"""Kernels compile without a GPU, errors are shown whole, and the cache key follows what decides the code."""

import re
from pathlib import Path

import pytest

pytest.importorskip("cuda.core")
pytest.importorskip("cuda.bindings.nvrtc")

from nanopd.errors import KernelCompileError
from nanopd.kernels import headers
from nanopd.kernels.cache import CubinCache
from nanopd.kernels.compile_all import all_configs, describe
from nanopd.kernels.nvrtc import KernelSpec, cache_key, cached_cubin, compile_kernel, spec

ARCHS = ("sm_80", "sm_90a", "sm_100")


def one_of_each() -> list[KernelSpec]:
    """The first configuration of every kernel; `python -m nanopd.kernels.compile_all` does them all."""
    return list({(kernel.source, kernel.entry): kernel for kernel in reversed(all_configs())}.values())


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernel", one_of_each(), ids=lambda kernel: kernel.entry)
def test_compiles(kernel: KernelSpec, arch: str) -> None:
    if not kernel.supports(arch):
        pytest.skip(f"{kernel.entry} is not for {arch}")
    compiled = compile_kernel(kernel, arch)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert kernel.entry.encode() in compiled.cubin
    assert re.search(r"[1-9]\d* regs", describe(kernel, compiled.log))


@pytest.fixture
def source_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(headers, "SOURCE_DIR", tmp_path)
    monkeypatch.setattr(headers, "INCLUDE_DIR", tmp_path)
    (tmp_path / "nanopd").mkdir()
    return tmp_path


def test_errors_are_shown_whole(source_dir: Path) -> None:
    body = "\n".join(f"    first_{i} = missing_{i};" for i in range(30))
    (source_dir / "broken.cu").write_text(f'extern "C" __global__ void broken() {{\n{body}\n}}\n')
    with pytest.raises(KernelCompileError) as caught:
        compile_kernel(spec("broken.cu", "broken", HEAD_DIM=128), "sm_90a")
    text = str(caught.value)
    assert "broken.cu" in text and "sm_90a" in text and "-DHEAD_DIM=128" in text
    assert all(f"missing_{i}" in text for i in range(30))


def test_the_key_follows_source_headers_macros_and_arch(source_dir: Path) -> None:
    (source_dir / "k.cu").write_text("#include <nanopd/a.cuh>\n")
    (source_dir / "nanopd" / "a.cuh").write_text('#pragma once\n#include "nanopd/b.cuh"\n')
    (source_dir / "nanopd" / "b.cuh").write_text("// one\n")
    kernel = spec("k.cu", "k", N=1)
    keys = [cache_key(kernel, "sm_80"), cache_key(kernel, "sm_90a"), cache_key(spec("k.cu", "k", N=2), "sm_80")]
    assert cache_key(kernel, "sm_80") == keys[0]
    (source_dir / "nanopd" / "b.cuh").write_text("// two\n")
    keys.append(cache_key(kernel, "sm_80"))
    (source_dir / "k.cu").write_text("#include <nanopd/a.cuh>\n// more\n")
    keys.append(cache_key(kernel, "sm_80"))
    assert len(set(keys)) == len(keys)


def test_compiles_once(source_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source_dir / "k.cu").write_text('extern "C" __global__ void k(int* x) { *x = N; }\n')
    cubins = CubinCache(tmp_path / "cache")
    first = cached_cubin(spec("k.cu", "k", N=1), "sm_90a", cubins)

    def fail(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("nanopd.kernels.nvrtc.compile_kernel", fail)
    assert cached_cubin(spec("k.cu", "k", N=1), "sm_90a", cubins) == first
    with pytest.raises(AssertionError, match="compiled again"):
        cached_cubin(spec("k.cu", "k", N=2), "sm_90a", cubins)


def test_missing_headers_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    headers.cuda_include_dir.cache_clear()
    with pytest.raises(KernelCompileError, match="nvidia-cuda-runtime.*CUDA_HOME"):
        headers.cuda_include_dir()
    headers.cuda_include_dir.cache_clear()


def test_booleans_become_numbers() -> None:
    assert spec("k.cu", "k", HAS_NORM=True, B=False).defines == (("B", "0"), ("HAS_NORM", "1"))
