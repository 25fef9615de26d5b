"""Which device each worker gets, found without importing torch or starting a driver."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from nanopd.config import EngineConfig, WorkerSpec


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one worker runs."""

    engine: EngineConfig  # its device resolved
    num_workers_on_device: int


def num_gpus() -> int:
    """NVIDIA GPUs this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    return sum(re.fullmatch(r"nvidia\d+", node.name) is not None for node in Path("/dev").glob("nvidia*"))


def place(specs: tuple[WorkerSpec, ...], engine: EngineConfig, gpus: int | None = None) -> dict[str, Placement]:
    """Spreads workers over the GPUs round robin, or puts them all on the CPU. By worker id."""
    gpus = num_gpus() if gpus is None else gpus
    devices: dict[str, str] = {}
    for i, spec in enumerate(specs):
        device = spec.device if spec.device != "auto" else engine.device
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        devices[spec.worker_id] = f"cuda:{i % max(gpus, 1)}" if device == "cuda" else device
    sharing = {device: list(devices.values()).count(device) for device in devices.values()}
    return {key: Placement(replace(engine, device=device), sharing[device]) for key, device in devices.items()}
