"""Where CUDA's headers and ours lie, and the exact text a kernel is built from."""

import os
import re
import sysconfig
from functools import cache
from pathlib import Path

from nanopd.errors import KernelCompileError

KERNEL_DIR = Path(__file__).parent
INCLUDE_DIR = KERNEL_DIR / "include"
SOURCE_DIR = KERNEL_DIR / "csrc"

_OUR_INCLUDE = re.compile(r'^\s*#\s*include\s*[<"](nanopd/[^>"]+)[>"]', re.MULTILINE)


@cache
def cuda_include_dir() -> Path:
    """The folder that holds ``cuda_bf16.h``: the CUDA wheels torch brings, else ``$CUDA_HOME``, else /usr/local/cuda.

    Raises KernelCompileError naming every folder that was tried.
    """
    site = [Path(sysconfig.get_paths()[key]) / "nvidia" for key in ("purelib", "platlib")]
    tried = [root / wheel / "include" for root in site for wheel in ("cu13", "cuda_runtime")]
    tried += [Path(os.environ[name]) / "include" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    tried.append(Path("/usr/local/cuda/include"))
    for folder in tried:
        if (folder / "cuda_bf16.h").is_file():
            return folder
    raise KernelCompileError(
        "CUDA headers not found: pip install nvidia-cuda-runtime, or set CUDA_HOME; "
        f"looked for cuda_bf16.h in {', '.join(str(folder) for folder in dict.fromkeys(tried))}"
    )


def kernel_sources(source: str) -> dict[str, str]:
    """The text of ``csrc/<source>`` and of every nanopd header it includes, directly or not, by name.

    This is what decides the machine code apart from options and compiler, so it is what the cache hashes.
    """
    texts: dict[str, str] = {}
    pending = [(source, SOURCE_DIR / source)]
    while pending:
        name, path = pending.pop()
        if name in texts:
            continue
        texts[name] = path.read_text(encoding="utf-8")
        pending += [(header, INCLUDE_DIR / header) for header in _OUR_INCLUDE.findall(texts[name])]
    return texts
