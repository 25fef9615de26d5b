"""What every wrapper checks of its tensors, in the words the caller needs."""

import torch

SCALAR_NAMES = {torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}
HEAD_DIMS = (64, 128, 256)


def scalar_name(tensor: torch.Tensor, name: str) -> str:
    """The CUDA type of a 16-bit float tensor."""
    if tensor.dtype not in SCALAR_NAMES:
        raise TypeError(f"{name} must be bfloat16 or float16, got {tensor.dtype}")
    return SCALAR_NAMES[tensor.dtype]


def check_shape(tensor: torch.Tensor, shape: tuple[int | None, ...], name: str) -> None:
    """``None`` in ``shape`` matches any size."""
    got = tensor.shape
    if got == shape:
        return
    if len(got) == len(shape):
        for size, want in zip(got, shape, strict=True):  # not any(...): a generator takes a microsecond to start
            if size != want and want is not None:
                break
        else:
            return
    expected = ", ".join("*" if size is None else str(size) for size in shape)
    raise ValueError(f"{name} must have shape [{expected}], got {list(got)}")


def check_like(tensor: torch.Tensor, reference: torch.Tensor, name: str) -> None:
    """Same dtype and device as ``reference``."""
    if tensor.dtype != reference.dtype or tensor.device != reference.device:
        raise ValueError(
            f"{name} must be {reference.dtype} on {reference.device}, got {tensor.dtype} on {tensor.device}"
        )


def check_index(tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...], reference: torch.Tensor, name: str) -> None:
    """An integer tensor with unit stride in its last dimension, on the device of ``reference``."""
    if tensor.dtype not in dtypes or tensor.device != reference.device or tensor.stride(-1) != 1:
        raise ValueError(
            f"{name} must be {' or '.join(map(str, dtypes))} with unit stride on {reference.device}, "
            f"got {tensor.dtype} with strides {tensor.stride()} on {tensor.device}"
        )


def check_rows(tensor: torch.Tensor, name: str) -> None:
    """Rows may lie apart, but each is contiguous and starts at a multiple of 16 bytes: kernels move 16-byte vectors."""
    if tensor.is_contiguous() and tensor.data_ptr() % 16 == 0 and tensor.stride(0) * tensor.element_size() % 16 == 0:
        return  # the usual case, quickly
    inner = 1
    for size, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if size != 1 and stride != inner:
            raise ValueError(f"{name} must have contiguous rows, got strides {tensor.stride()} of {list(tensor.shape)}")
        inner *= size
    if tensor.data_ptr() % 16 or tensor.stride(0) * tensor.element_size() % 16:
        raise ValueError(f"{name} must have rows at multiples of 16 bytes, got stride {tensor.stride(0)}")


def check_kv(kv: torch.Tensor, reference: torch.Tensor) -> tuple[int, int, int]:
    """One layer's KV [num_blocks, 2, Hk, block_size, D]; returns (Hk, block_size, D)."""
    check_shape(kv, (None, 2, None, None, None), "kv")
    check_like(kv, reference, "kv")
    check_rows(kv, "kv")
    num_kv_heads, block_size, head_dim = kv.shape[2:]
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"head_dim must be one of {HEAD_DIMS}, got {head_dim}")
    if block_size not in (8, 16, 32, 64, 128, 256):
        raise ValueError(f"block_size must be a power of two from 8 to 256, got {block_size}")
    return num_kv_heads, block_size, head_dim
