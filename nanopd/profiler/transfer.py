"""The real transfer path: what it takes by size, as latency and bandwidth."""

from collections.abc import Mapping, Sequence

import numpy as np

from nanopd.config import ModelConfig
from nanopd.cost_model import TransferModel

_NUM_BLOCKS = 256  # of each of the two pools


def measure_transfer(
    model: ModelConfig, block_size: int, devices: tuple[str, str], *, num_rounds: int, seed: int = 0
) -> tuple[str, dict[int, list[float]]]:
    """Between a pool here and one of another process, as between workers on these devices: the transport's name, milliseconds by bytes.

    Raises TransferError.
    """
    from nanopd.profiler.transfer_rates import COPY, TransferRates  # here: a module beside it runs as a process, too

    with TransferRates(model, block_size, _NUM_BLOCKS, devices, seed=seed) as rates:
        measured = rates.measure(num_rounds)
        transport = next(name for name in measured if name != COPY)
        return transport, {size * rates.block_bytes: times for size, times in measured[transport].items()}


def fit_transfer(times: Mapping[int, Sequence[float]]) -> TransferModel:
    """Latency and bandwidth, both at least 0, that fit the fastest push of each size best: what else runs only adds. Errors count by the root of
    their size, so that large pushes, which a cache does not hold, set the bandwidth."""
    from scipy.optimize import nnls

    fastest = np.array([min(values) for values in times.values()])
    rows = np.array([[1.0, float(num_bytes)] for num_bytes in times]) / np.sqrt(fastest)[:, None]
    scale = rows.max(axis=0)
    (latency, per_byte), _norm = nnls(rows / scale, np.sqrt(fastest))
    per_byte_ms = max(per_byte / scale[1], 1e-12)
    return TransferModel(float(latency / scale[0]), float(1.0 / per_byte_ms / 1e6))
