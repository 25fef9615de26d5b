"""Which device, dtype and thread count "auto" stands for."""

import os

import torch

from nanopd.config import EngineConfig
from nanopd.errors import ConfigError
from nanopd.layers.dispatch import cpu_multiplies_bf16

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """auto: the GPU when there is one. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"device {device} does not exist: torch sees {torch.cuda.device_count()} CUDA devices")
    elif device.type != "cpu":
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device


def resolve_dtype(name: str, device: torch.device) -> str:
    """auto: bfloat16 where the hardware multiplies it, else float16 (old GPUs) or float32 (CPUs)."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if cpu_multiplies_bf16() else "float32"


def sum_products_in_float32() -> None:
    """For this process: by torch's default cuBLAS may add the parts of a product that is split along its inner dimension in 16 bits."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def set_cpu_threads(config: EngineConfig, num_workers_on_device: int) -> None:
    """CPU workers share the cores among them; torch's default would give every worker all of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.num_threads or max(1, cores // num_workers_on_device))
