"""Which arithmetic an operation goes to. Our CUDA kernels are imported where they are used, so a CPU never loads them."""

from functools import cache
from pathlib import Path

import torch

_HALF = (torch.bfloat16, torch.float16)
_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def uses_kernels(x: torch.Tensor) -> bool:
    """Our kernels take CUDA tensors of 16-bit floats whose rows are whole 16-byte vectors; torch does the rest."""
    return x.is_cuda and x.dtype in _HALF and x.shape[-1] % 16 == 0


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bfloat16 instructions; without them torch's products are many times slower than float32 ones."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line.split(":", 1)[1] for line in lines if line.lower().startswith(("flags", "features"))), "")
    return bool(_BF16_CPU_FLAGS & set(flags.split()))
