"""What a worker process is told when it starts (as JSON on its standard input)."""

from dataclasses import dataclass

from nanopd.config import EngineConfig


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """One life of one worker."""

    worker_id: str
    incarnation: int
    address: str  # of the controller's socket
    engine: EngineConfig
    num_workers_on_device: int
    heartbeat_interval_s: float
    push_timeout_s: float
    parent_pid: int
