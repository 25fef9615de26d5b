"""Traces of real runs: what each worker's host and device did, what was pushed where, and what every request waited for.

Each process keeps its own bounded log and writes it into ``EngineConfig.trace_dir`` when it ends (``logs``, ``recorder``, ``requests``);
whoever started them makes one Chrome trace of the folder (``session``, ``chrome``). All processes of a host share one monotonic clock.
"""

from nanopd.tracing.recorder import Recorder
from nanopd.tracing.requests import RequestRecorder
from nanopd.tracing.sender import TracedSender

__all__ = ["Recorder", "RequestRecorder", "TracedSender"]
