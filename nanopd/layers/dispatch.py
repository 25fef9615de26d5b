"""Whether an operation goes to our CUDA kernels. They are imported where they are used, so a CPU never loads them."""

import torch

_HALF = (torch.bfloat16, torch.float16)


def uses_kernels(x: torch.Tensor) -> bool:
    """Our kernels take CUDA tensors of 16-bit floats whose rows are whole 16-byte vectors; torch does the rest."""
    return x.is_cuda and x.dtype in _HALF and x.shape[-1] % 16 == 0
