"""``python -m nanopd.kernels.compile_all --arch sm_80,sm_90a,sm_100``: compile every configuration, GPU or not.

Each wrapper module lists what it may launch in ``CONFIGS: tuple[KernelSpec, ...]``. Prints registers and spills as
ptxas reports them; exits 1 when a configuration does not compile.
"""

import argparse
import importlib
import os
import pkgutil
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import nanopd.kernels
from nanopd.errors import KernelCompileError
from nanopd.kernels.nvrtc import KernelSpec, compile_kernel

DEFAULT_ARCHS = "sm_80,sm_90a,sm_100"


def all_configs() -> tuple[KernelSpec, ...]:
    """Every configuration of every wrapper, in a stable order."""
    configs: list[KernelSpec] = []
    for module in sorted(pkgutil.iter_modules(nanopd.kernels.__path__), key=lambda info: info.name):
        configs += getattr(importlib.import_module(f"nanopd.kernels.{module.name}"), "CONFIGS", ())
    return tuple(dict.fromkeys(configs))


def describe(kernel: KernelSpec, log: str) -> str:
    """One line: registers, shared memory and spills of the entry, then its macros."""
    registers = max((int(n) for n in re.findall(r"Used (\d+) registers", log)), default=0)
    shared = max((int(n) for n in re.findall(r"(\d+) bytes smem", log)), default=0)
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", log))
    macros = " ".join(f"{name}={value}" for name, value in kernel.defines)
    return f"{kernel.entry:32s} {registers:4d} regs {shared:6d} smem {spills:4d} spilled  {macros}"


def _compile_one(job: tuple[KernelSpec, str]) -> tuple[bool, str]:
    kernel, arch = job
    try:
        return True, f"{arch:8s} {describe(kernel, compile_kernel(kernel, arch).log)}"
    except KernelCompileError as error:
        return False, str(error)


def compile_all(archs: list[str], only: str = "") -> Iterator[tuple[bool, str]]:
    """Yields (compiled, line to show) per configuration and architecture it supports; ``only`` filters by source."""
    configs = [kernel for kernel in all_configs() if only in kernel.source]
    jobs = [(kernel, arch) for kernel in configs for arch in archs if kernel.supports(arch)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_compile_one, jobs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default=DEFAULT_ARCHS, help="comma-separated, default %(default)s")
    parser.add_argument("--only", default="", help="only sources whose name contains this")
    options = parser.parse_args()
    start, failed, total = time.perf_counter(), 0, 0
    for compiled, line in compile_all(options.arch.split(","), options.only):
        total += 1
        failed += not compiled
        print(line, flush=True)
    print(f"{total - failed} of {total} compiled in {time.perf_counter() - start:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
