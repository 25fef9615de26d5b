"""GPU memory that other processes can map: CUDA's virtual memory management, shared as a file descriptor.

The physical memory is counted: it lives until its last mapping is gone, whichever process that is in. So a sender may still write when the
receiver has just died, and nothing is left behind when both have. (Older ``cudaIpc`` handles leave that case undefined.)
"""

from typing import Any

import torch

from nanopd.errors import TransferError


def supports_sharing(device: torch.device) -> bool:
    """Whether memory of this GPU can be exported as a file descriptor."""
    cu = _driver()
    torch.cuda.init()
    attribute = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
    return bool(_check("asking for shareable memory", cu.cuDeviceGetAttribute(attribute, device.index)))


class DeviceMemory:
    """A mapped range of GPU memory, our own or a peer's. ``close`` unmaps it."""

    def __init__(self, handle: Any, num_bytes: int, accessing: torch.device) -> None:
        """Maps the allocation ``handle`` for use by ``accessing``, and takes the handle over. Raises TransferError."""
        cu = _driver()
        self.num_bytes = num_bytes
        self._handle = handle
        self.address = 0
        self._is_mapped = False
        try:
            self.address = int(_check("reserving addresses", cu.cuMemAddressReserve(num_bytes, 0, 0, 0)))
            _check("mapping memory", cu.cuMemMap(self.address, num_bytes, 0, handle, 0))
            self._is_mapped = True
            access = cu.CUmemAccessDesc()
            access.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
            access.location.id = accessing.index
            access.flags = cu.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
            _check(f"giving {accessing} access", cu.cuMemSetAccess(self.address, num_bytes, [access], 1))
        except TransferError:
            self.close()
            raise

    @classmethod
    def create(cls, device: torch.device, num_bytes: int) -> "DeviceMemory":
        """New memory on ``device``, at least ``num_bytes``, not zeroed."""
        cu = _driver()
        torch.cuda.init()
        wanted = cu.CUmemAllocationProp()
        wanted.type = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        wanted.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        wanted.location.id = device.index
        wanted.requestedHandleTypes = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        best = cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
        granularity = int(_check("asking for the granularity", cu.cuMemGetAllocationGranularity(wanted, best)))
        num_bytes = -(-num_bytes // granularity) * granularity
        what = f"allocating {num_bytes} bytes on {device}"
        return cls(_check(what, cu.cuMemCreate(num_bytes, wanted, 0)), num_bytes, device)

    @classmethod
    def from_descriptor(cls, descriptor: int, num_bytes: int, accessing: torch.device) -> "DeviceMemory":
        """A peer's memory, to be read and written by ``accessing``, which needs peer access to its device."""
        cu = _driver()
        torch.cuda.init()
        kind = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        handle = _check("importing a peer's memory", cu.cuMemImportFromShareableHandle(descriptor, kind))
        return cls(handle, num_bytes, accessing)

    def descriptor(self) -> int:
        """A new file descriptor by which another process can map this memory; the caller closes it."""
        cu = _driver()
        kind = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        return int(_check("exporting memory", cu.cuMemExportToShareableHandle(self._handle, kind, 0)))

    def tensor(self) -> torch.Tensor:
        """All of it as uint8, for memory of our own device. The tensor keeps the object, not the mapping: ``close`` ends both."""
        return torch.as_tensor(_Array(self))

    def close(self) -> None:
        """Unmaps; nothing on any stream may use it any more. Safe to call more than once."""
        cu = _driver()
        if self._is_mapped:
            self._is_mapped = False
            cu.cuMemUnmap(self.address, self.num_bytes)
        if self.address:
            cu.cuMemAddressFree(self.address, self.num_bytes)
            self.address = 0
        if self._handle is not None:
            cu.cuMemRelease(self._handle)
            self._handle = None


class _Array:
    """See https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self.__cuda_array_interface__ = {
            "shape": (memory.num_bytes,),
            "typestr": "|u1",
            "data": (memory.address, False),
            "version": 3,
        }


def copy_async(target: int, source: int, num_bytes: int, stream: torch.cuda.Stream) -> None:
    """Between addresses, on the copy engine where one of them is pinned host memory. Raises TransferError."""
    _check("copying", _driver().cuMemcpyAsync(target, source, num_bytes, stream.cuda_stream))


def _driver() -> Any:
    """CUDA's driver interface; not there on CPU-only machines."""
    from cuda.bindings import driver

    return driver


def _check(what: str, answer: tuple[Any, ...]) -> Any:
    """The value of a driver call. Raises TransferError."""
    result, *values = answer
    if int(result) != 0:
        raise TransferError(f"{what} failed: {getattr(result, 'name', result)}")
    return values[0] if values else None
