"""How many blocks the KV pool gets."""

import os
from pathlib import Path

import torch

from nanopd.config import CacheConfig, ModelConfig
from nanopd.config.model import DTYPE_BYTES
from nanopd.errors import ConfigError

GPU_FRACTION = 0.9
CPU_FRACTION = 0.25  # a CPU's memory is everybody's
GPU_RESERVE_BYTES = 1 << 30  # workspaces, CUDA graphs and the allocator's slack live beside weights and KV


def size_pool(
    model: ModelConfig,
    cache: CacheConfig,
    dtype: str,
    device: torch.device,
    *,
    num_workers_on_device: int = 1,
    max_useful_tokens: int | None = None,
    max_step_tokens: int = 0,
) -> int:
    """Number of blocks: ``cache.num_blocks`` when given, else what free memory allows once the weights are loaded.

    ``max_step_tokens``: tokens of the largest step, whose activations need room on a GPU. ``max_useful_tokens``: more than the scheduler could
    ever fill (max sequences times context length) is not taken.
    Raises ConfigError when not even one block fits.
    """
    if cache.num_blocks is not None:
        return cache.num_blocks
    block_bytes = cache.block_size * model.kv_bytes_per_token(dtype)
    budget = kv_budget_bytes(model, cache, dtype, device, num_workers_on_device)
    if device.type == "cuda":
        budget -= max_step_tokens * activation_bytes_per_token(model, dtype)
    num_blocks = budget // block_bytes
    if num_blocks < 1:
        raise ConfigError(
            f"no memory for the KV cache on {device}: one block takes {block_bytes} bytes; raise memory_fraction or set num_blocks"
        )
    if max_useful_tokens is not None:
        num_blocks = min(num_blocks, -(-max_useful_tokens // cache.block_size))
    return num_blocks


def kv_budget_bytes(
    model: ModelConfig, cache: CacheConfig, dtype: str, device: torch.device, num_workers_on_device: int
) -> int:
    """Bytes this worker may use for KV; negative when the weights alone exceed its share."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        share = total * (cache.memory_fraction or GPU_FRACTION) / num_workers_on_device
        used = torch.cuda.memory_reserved(device)  # the weights, by now
        return int(min(share - used, free) - GPU_RESERVE_BYTES)
    weight_bytes = model.num_parameters * DTYPE_BYTES[dtype]
    share = available_cpu_bytes() * (cache.memory_fraction or CPU_FRACTION) / num_workers_on_device
    # Workers of one machine map the same weights (see weights.converted), so their cost is not charged to a small share twice.
    return int(max(share - weight_bytes, share / 2))


def activation_bytes_per_token(model: ModelConfig, dtype: str) -> int:
    """Of the widest point of a layer: residual, norm, the fused gate-up projection and its product."""
    return (3 * model.hidden_size + 3 * model.intermediate_size) * DTYPE_BYTES[dtype]


def available_cpu_bytes() -> int:
    """Memory this process could still get: the machine's, bounded by the control group's limit."""
    limits = [_read_cgroup_limit()]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limit for limit in limits if limit is not None)


def _read_cgroup_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # absent, or "max"
            continue
    return None
