"""Kernels by name: compiled at first use, cached on disk, launched on torch's current stream.

::

    kernel = jit.load("rms_norm.cu", entry="rms_norm_kernel", defines={"SCALAR": "__half"}, device=x.device)
    kernel.launch(grid=(num_tokens, 1, 1), block=(256, 1, 1), args=(x, weight, out, jit.i32(hidden), jit.f32(eps)))

A launch does not allocate device memory, does not synchronise, and may be captured in a CUDA graph.
"""

import ctypes
import struct
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from nanopd.errors import NanoPDError
from nanopd.kernels.cache import CubinCache, default_cache_dir
from nanopd.kernels.driver import (
    ATTRIBUTE_NUM_REGS,
    CUDA_ERROR_INVALID_CONTEXT,
    LAUNCH_CLUSTER_DIMENSION,
    LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION,
    LaunchAttribute,
    LaunchConfig,
    driver,
)
from nanopd.kernels.nvrtc import KernelSpec, cached_cubin, freeze_defines

i32 = ctypes.c_int32
i64 = ctypes.c_int64
f32 = ctypes.c_float

Dim3 = tuple[int, int, int]
Argument = torch.Tensor | ctypes.c_int32 | ctypes.c_int64 | ctypes.c_float | bytes | None

# What each scalar becomes in the parameter buffer: (struct code, size in bytes).
_SCALARS: dict[type, tuple[str, int]] = {i32: ("i", 4), i64: ("q", 8), f32: ("f", 4)}
_DEFAULT_SHARED_LIMIT = 40 * 1024  # 48 KiB less what a kernel may declare by itself


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability, (9, 0) on Hopper. Asking torch takes microseconds, which a launch cannot spare."""
    return torch.cuda.get_device_capability(device)


def device_arch(device: torch.device) -> str:
    """ "sm_90a" and the like. From 9.0 on the architecture-specific variant: wgmma and setmaxnreg need it."""
    major, minor = capability(device)
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


@cache
def num_sms(device_index: int) -> int:
    return torch.cuda.get_device_properties(device_index).multi_processor_count


@cache
def supports_pdl(device: torch.device) -> bool:
    """Whether launches may ask for programmatic dependent launch."""
    return capability(device)[0] >= 9


@cache
def max_shared_bytes(device_index: int) -> int:
    """Dynamic shared memory a CTA may ask for."""
    return driver().max_shared_bytes(device_index)


def load(source: str, entry: str, defines: dict[str, object] | None = None, *, device: torch.device) -> "Kernel":
    """The kernel ``entry`` (extern "C") of ``csrc/<source>`` under ``defines``, ready to launch on ``device``.

    Raises KernelCompileError with the compiler's whole log. Equal arguments return the same object.
    """
    return load_spec(KernelSpec(source, entry, freeze_defines(defines or {})), device)


def load_spec(kernel: KernelSpec, device: torch.device) -> "Kernel":
    """``load`` for a configuration a wrapper lists in its CONFIGS."""
    return _load(kernel, device.index if device.index is not None else torch.cuda.current_device())


@cache
def _load(kernel: KernelSpec, device_index: int) -> "Kernel":
    device = torch.device("cuda", device_index)
    torch.cuda.init()
    with torch.cuda.device(device):
        torch.cuda.set_device(device)  # makes the primary context current in a thread new to CUDA
        cubin = cached_cubin(kernel, device_arch(device), CubinCache(default_cache_dir()))
        return Kernel(kernel.entry, driver().load_kernel(cubin, kernel.entry), device_index)


class Kernel:
    """One loaded kernel on one device. Launches are thread-safe."""

    def __init__(self, entry: str, handle: int, device_index: int) -> None:
        self.entry = entry
        self.device_index = device_index
        self._handle = handle
        self._layout = driver().param_layout(handle)
        size = max((offset + num_bytes for offset, num_bytes in self._layout), default=0)
        self._params = ctypes.create_string_buffer(max(size, 1))
        base = ctypes.addressof(self._params)
        pointers = (ctypes.c_void_p * max(len(self._layout), 1))(*(base + offset for offset, _ in self._layout))
        self._pointers = ctypes.cast(pointers, ctypes.c_void_p)
        self._kept = pointers
        self._packers: dict[tuple[type, ...], Callable[..., None]] = {}
        self._configs: dict[tuple[Dim3, int, bool, Dim3 | None], LaunchConfig] = {}
        self._shared_limit = _DEFAULT_SHARED_LIMIT
        self._lock = threading.Lock()  # the buffers above are shared by all launches of this kernel

    @property
    def num_registers(self) -> int:
        return driver().attribute(self._handle, ATTRIBUTE_NUM_REGS, self.device_index)

    def launch(
        self,
        grid: Dim3,
        block: Dim3,
        args: Sequence[Argument],
        smem_bytes: int = 0,
        pdl: bool = False,
        cluster: Dim3 | None = None,
    ) -> None:
        """Enqueue on torch's current stream of this kernel's device.

        ``args``: tensors pass their data pointer, None a null pointer, ``i32/i64/f32`` their value, bytes a struct by
        value; sizes are checked against the compiled signature. ``smem_bytes``: dynamic shared memory a CTA.
        ``pdl``: programmatic dependent launch, the kernel may start before its predecessor ends (it must execute
        griddepcontrol.wait before it reads what that one wrote). ``cluster``: CTAs a cluster; ``grid`` counts CTAs.
        """
        values = [a.data_ptr() if isinstance(a, torch.Tensor) else getattr(a, "value", a) for a in args]
        kinds = tuple(map(type, args))
        shape = (block, smem_bytes, pdl, cluster)
        with self._lock:
            pack = self._packers.get(kinds) or self._new_packer(kinds, args)
            config = self._configs.get(shape) or self._new_config(*shape)
            pack(*values)
            config.grid_x, config.grid_y, config.grid_z = grid
            config.stream = torch._C._cuda_getCurrentRawStream(self.device_index)
            result = CUDA_ERROR_INVALID_CONTEXT
            if torch._C._cuda_getDevice() == self.device_index:
                result = driver().launch_kernel(config, self._handle, self._pointers, None)
            if result == CUDA_ERROR_INVALID_CONTEXT:  # another device is current, or a thread new to CUDA
                with torch.cuda.device(self.device_index):
                    torch.cuda.set_device(self.device_index)
                    result = driver().launch_kernel(config, self._handle, self._pointers, None)
        if result:
            driver().check(result, f"launching {self.entry} grid {grid} block {block} shared {smem_bytes}")

    def _new_config(self, block: Dim3, smem_bytes: int, pdl: bool, cluster: Dim3 | None) -> LaunchConfig:
        """All of a launch but its grid and stream; building it costs more than the launch, so it is kept."""
        if smem_bytes > self._shared_limit:
            driver().allow_shared_bytes(self._handle, self.device_index, smem_bytes)
            self._shared_limit = smem_bytes
        attributes, count = (LaunchAttribute * 2)(), 0
        if pdl:
            attributes[count].id = LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION
            attributes[count].value[0] = 1
            count += 1
        if cluster is not None:
            attributes[count].id = LAUNCH_CLUSTER_DIMENSION
            attributes[count].value[:3] = cluster
            count += 1
        block_x, block_y, block_z = block
        config = LaunchConfig(
            block_x=block_x,
            block_y=block_y,
            block_z=block_z,
            shared_bytes=smem_bytes,
            attributes=attributes,
            num_attributes=count,
        )
        self._configs[block, smem_bytes, pdl, cluster] = config
        return config

    def _new_packer(self, kinds: tuple[type, ...], args: Sequence[Argument]) -> Callable[..., None]:
        """One struct.pack_into for these argument kinds, laid out as the compiled kernel expects."""
        if len(args) != len(self._layout):
            raise NanoPDError(f"{self.entry} takes {len(self._layout)} arguments, got {len(args)}")
        codes, end = "<", 0
        for index, (arg, (offset, size)) in enumerate(zip(args, self._layout, strict=True)):
            code, num_bytes = _struct_code(arg)
            if num_bytes != size:
                raise NanoPDError(
                    f"{self.entry} argument {index} has {size} bytes, got {type(arg).__name__} of {num_bytes}"
                )
            codes += f"{offset - end}x{code}"
            end = offset + size
        plain: Callable[..., None] = partial(struct.Struct(codes).pack_into, self._params, 0)
        pack = plain
        if any(arg is None for arg in args):  # struct has no null pointer

            def pack(*values: object) -> None:
                plain(*(0 if value is None else value for value in values))

        self._packers[kinds] = pack
        return pack


def _struct_code(arg: Argument) -> tuple[str, int]:
    if arg is None or isinstance(arg, torch.Tensor):
        return "Q", 8
    if isinstance(arg, bytes):
        return f"{len(arg)}s", len(arg)
    if type(arg) not in _SCALARS:
        raise NanoPDError(f"a kernel argument must be a tensor, i32, i64, f32, bytes or None, got {type(arg).__name__}")
    return _SCALARS[type(arg)]
