"""The few driver entry points a kernel launch needs, by ctypes.

A launch through ctypes from prepared buffers costs a few microseconds on the host, whatever the number of arguments;
a prefill step, which is not replayed from a graph, makes hundreds of them.
"""

import ctypes
from ctypes import POINTER, Structure, c_int, c_size_t, c_uint, c_void_p
from functools import cache

from nanopd.errors import NanoPDError

CUDA_ERROR_INVALID_CONTEXT = 201
ATTRIBUTE_MAX_DYNAMIC_SHARED_BYTES = 8
ATTRIBUTE_NUM_REGS = 4
DEVICE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
LAUNCH_CLUSTER_DIMENSION = 4
LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION = 6


class LaunchAttribute(Structure):
    """CUlaunchAttribute: an id, padding to 8 bytes, a union of 64 bytes."""

    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_uint * 16)]


class LaunchConfig(Structure):
    """CUlaunchConfig."""

    _fields_ = [
        *((name, c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_bytes")),
        ("stream", c_void_p),
        ("attributes", POINTER(LaunchAttribute)),
        ("num_attributes", c_uint),
    ]


class Driver:
    """libcuda's functions with their types; every failure raises with the driver's own words."""

    def __init__(self) -> None:
        lib = ctypes.CDLL("libcuda.so.1")
        self._error_string = lib.cuGetErrorString
        self.launch_kernel = lib.cuLaunchKernelEx
        self.launch_kernel.argtypes = [POINTER(LaunchConfig), c_void_p, c_void_p, c_void_p]
        self._load = lib.cuLibraryLoadData
        self._load.argtypes = [POINTER(c_void_p), c_void_p, *[c_void_p] * 2, c_uint, *[c_void_p] * 2, c_uint]
        self._get_kernel = lib.cuLibraryGetKernel
        self._param_info = lib.cuKernelGetParamInfo
        self._param_info.argtypes = [c_void_p, c_size_t, POINTER(c_size_t), POINTER(c_size_t)]
        self._get_attribute = lib.cuKernelGetAttribute
        self._get_attribute.argtypes = [POINTER(c_int), c_int, c_void_p, c_int]
        self._device_attribute = lib.cuDeviceGetAttribute
        self._device_attribute.argtypes = [POINTER(c_int), c_int, c_int]
        self._set_attribute = lib.cuKernelSetAttribute
        self._set_attribute.argtypes = [c_int, c_int, c_void_p, c_int]

    def check(self, result: int, what: str) -> None:
        if result:
            text = ctypes.c_char_p()
            self._error_string(result, ctypes.byref(text))
            raise NanoPDError(f"{what}: CUDA driver error {result}: {(text.value or b'unknown').decode()}")

    def load_kernel(self, cubin: bytes, entry: str) -> int:
        """Load machine code (for every device of its architecture) and return the CUkernel of ``entry``."""
        library, kernel = c_void_p(), c_void_p()
        self.check(self._load(library, cubin, None, None, 0, None, None, 0), f"loading {entry}")
        self.check(self._get_kernel(ctypes.byref(kernel), library, entry.encode()), f"finding {entry}")
        assert kernel.value is not None
        return kernel.value

    def param_layout(self, kernel: int) -> list[tuple[int, int]]:
        """(offset, size) in bytes of each kernel parameter."""
        layout: list[tuple[int, int]] = []
        offset, size = c_size_t(), c_size_t()
        while self._param_info(kernel, len(layout), offset, size) == 0:
            layout.append((offset.value, size.value))
        return layout

    def attribute(self, kernel: int, attribute: int, device: int) -> int:
        value = c_int()
        self.check(self._get_attribute(value, attribute, kernel, device), "reading a kernel attribute")
        return value.value

    def max_shared_bytes(self, device: int) -> int:
        """Dynamic shared memory a CTA may ask for."""
        value = c_int()
        result = self._device_attribute(value, DEVICE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device)
        self.check(result, "reading a device attribute")
        return value.value

    def allow_shared_bytes(self, kernel: int, device: int, num_bytes: int) -> None:
        """Above 48 KiB of dynamic shared memory a kernel has to ask first."""
        result = self._set_attribute(ATTRIBUTE_MAX_DYNAMIC_SHARED_BYTES, num_bytes, kernel, device)
        self.check(result, f"asking for {num_bytes} bytes of shared memory")


@cache
def driver() -> Driver:
    return Driver()
