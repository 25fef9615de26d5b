"""The cluster: one pure state machine that turns events into commands."""

from nanopd.cluster.central_scheduler import CentralScheduler
from nanopd.cluster.snapshot import ClusterSnapshot, Counters, RequestSnapshot, WorkerSnapshot

__all__ = ["CentralScheduler", "ClusterSnapshot", "Counters", "RequestSnapshot", "WorkerSnapshot"]
