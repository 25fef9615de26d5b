"""What the device is called."""

import time
from pathlib import Path

import torch

_BUFFER_BYTES = {"cuda": 4 << 30, "cpu": 256 << 20}  # far beyond the caches
_NUM_READS = 5


def hardware_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads a worker uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


@torch.inference_mode()
def read_bandwidth_gb_s(device: torch.device) -> float:
    """The fastest of some sums over a large buffer: what reading memory can reach at all, 10^9 bytes per second."""
    buffer = torch.ones(_BUFFER_BYTES[device.type] // 4, dtype=torch.float32, device=device)
    fastest = float("inf")
    for _ in range(_NUM_READS):
        began = time.perf_counter()
        buffer.sum().item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - began)
    return buffer.numel() * 4 / fastest / 1e9


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
