"""From a kernel's name and its defines to machine code: NVRTC through cuda-core, no nvcc and no host compiler."""

import hashlib
import io
import re
from dataclasses import dataclass
from functools import cache

from nanopd.errors import KernelCompileError
from nanopd.kernels.cache import CubinCache
from nanopd.kernels.headers import INCLUDE_DIR, cuda_include_dir, kernel_sources

Defines = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One configuration of one kernel: everything that decides its code but the architecture.

    ``defines`` are the macros that pick the template; ``min_arch`` is the compute capability (90 = 9.0) it needs.
    """

    source: str
    entry: str
    defines: Defines = ()
    min_arch: int = 80
    max_arch: int = 1_000

    def supports(self, arch: str) -> bool:
        return self.min_arch <= int(re.sub(r"\D", "", arch)) <= self.max_arch


def spec(source: str, entry: str, *, min_arch: int = 80, max_arch: int = 1_000, **defines: object) -> KernelSpec:
    """Shorthand: ``spec("x.cu", "x_kernel", HEAD_DIM=128)``."""
    return KernelSpec(source, entry, freeze_defines(defines), min_arch, max_arch)


def freeze_defines(defines: dict[str, object]) -> Defines:
    """Sorted (name, text) pairs; booleans become 0 and 1 so that ``#if`` and ``if constexpr`` both read them."""
    return tuple(sorted((k, str(int(v)) if isinstance(v, bool) else str(v)) for k, v in defines.items()))


@dataclass(frozen=True, slots=True)
class Compilation:
    """Machine code, and what ptxas said of it (registers, spills)."""

    cubin: bytes
    log: str


@cache
def toolchain() -> str:
    """What names the compiler in a cache key: the NVRTC version and the version of the headers."""
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    header = (cuda_include_dir() / "cuda.h").read_text(encoding="utf-8", errors="replace")
    version = re.search(r"#define\s+CUDA_VERSION\s+(\d+)", header)
    return f"nvrtc {major}.{minor} headers {version.group(1) if version else 'unknown'}"


def cache_key(kernel: KernelSpec, arch: str) -> str:
    """A content hash: equal keys mean equal machine code."""
    parts = [toolchain(), arch, kernel.entry, repr(kernel.defines)]
    parts += [f"{name}\n{text}" for name, text in sorted(kernel_sources(kernel.source).items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def compile_kernel(kernel: KernelSpec, arch: str) -> Compilation:
    """Compile for ``arch`` ("sm_90a"); needs neither a GPU nor a driver.

    Raises KernelCompileError with the whole compiler log.
    """
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise KernelCompileError(f"CUDA kernels need cuda-core: pip install 'nanopd[cuda]' ({error})") from error

    options = ProgramOptions(
        name=kernel.source,
        arch=arch,
        std="c++17",
        include_path=[str(INCLUDE_DIR), str(cuda_include_dir())],
        define_macro=list(kernel.defines) or None,
        ptxas_options=["-v"],
    )
    log = io.StringIO()
    try:
        program = Program(kernel_sources(kernel.source)[kernel.source], "c++", options)
        cubin = bytes(program.compile("cubin", logs=log).code)
    except Exception as error:  # cuda-core's own types; the text holds NVRTC's log
        shown = " ".join(f"-D{name}={value}" for name, value in kernel.defines)
        text = "\n".join(filter(None, (str(error), log.getvalue().strip("\0\n"))))
        raise KernelCompileError(f"{kernel.source} ({kernel.entry}) for {arch} {shown}\n{text}") from error
    return Compilation(cubin, log.getvalue().strip("\0\n"))


def cached_cubin(kernel: KernelSpec, arch: str, cubins: CubinCache) -> bytes:
    """The machine code from disk, compiled and stored there the first time."""
    key = cache_key(kernel, arch)
    cubin = cubins.get(key)
    if cubin is None:
        cubin = compile_kernel(kernel, arch).cubin
        cubins.put(key, cubin)
    return cubin
