"""Which transport a worker uses."""

from nanopd.errors import ConfigError
from nanopd.kv_transfer.endpoint import KvEndpoint
from nanopd.kv_transfer.shared_memory import SharedMemoryEndpoint


def open_endpoint(worker_id: str, device: str, transport: str = "auto") -> KvEndpoint:
    """The transport endpoint of a worker on ``device`` (cpu, cuda:0, ...).

    ``transport``: auto, or the name of one that alone is to be used. Raises ConfigError for one this device does not have.
    """
    if device == "cpu":
        _check(transport, device, (SharedMemoryEndpoint.transport,))
        return SharedMemoryEndpoint(worker_id)
    from nanopd.kv_transfer.cuda_endpoint import TRANSPORTS, CudaEndpoint  # CPU-only machines lack the bindings

    _check(transport, device, TRANSPORTS)
    return CudaEndpoint(worker_id, device, TRANSPORTS if transport == "auto" else (transport,))


def _check(transport: str, device: str, known: tuple[str, ...]) -> None:
    if transport not in ("auto", *known):
        raise ConfigError(f"transport on {device} must be one of auto, {', '.join(known)}, got {transport!r}")
