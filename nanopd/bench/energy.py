"""Energy of the GPUs that an arm uses, by NVML's own counter, where there is NVML (``pip install nvidia-ml-py``) and a GPU that counts."""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any


class EnergyMeter:
    """Joules since the driver was loaded, of some GPUs."""

    def __init__(self, nvml: Any, handles: Sequence[Any]) -> None:
        self._nvml, self._handles = nvml, handles

    @classmethod
    def open(cls, num_devices: int) -> "EnergyMeter | None":
        """Of the first ``num_devices`` GPUs this process may use, as the workers take them; None where energy cannot be read."""
        try:
            nvml = import_module("pynvml")
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
            handles = [_handle(nvml, name) for name in _visible(count)[:num_devices]]
            meter = cls(nvml, handles)
            meter.joules()  # GPUs before Volta have no counter
        except Exception:  # no library, no driver, no such counter: NVML's errors have no base that exists without it
            return None
        return meter if handles else None

    def joules(self) -> float:
        return sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles) / 1e3


def _visible(count: int) -> list[str]:
    """Indexes or UUIDs, as CUDA_VISIBLE_DEVICES names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


def _handle(nvml: Any, name: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
