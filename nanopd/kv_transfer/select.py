"""Which transport a worker uses."""

import logging

from nanopd.kv_transfer.endpoint import KvEndpoint
from nanopd.kv_transfer.loopback import LoopbackHub
from nanopd.kv_transfer.shared_memory import SharedMemoryEndpoint

logger = logging.getLogger(__name__)


def open_endpoint(worker_id: str, device: str) -> KvEndpoint:
    """The transport endpoint of a worker on ``device`` (cpu, cuda:0, ...)."""
    if device == "cpu":
        return SharedMemoryEndpoint(worker_id)
    logger.info("%s: no transport leaves a %s worker yet, requests it serves stay on it", worker_id, device)
    return LoopbackHub().endpoint(worker_id, device)
