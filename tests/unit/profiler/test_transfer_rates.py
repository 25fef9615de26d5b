"""Between two real processes, on a pool of a few kilobytes."""

import pytest

from nanopd.config import ModelConfig
from nanopd.errors import ConfigError, TransferError
from nanopd.profiler.transfer_rates import COPY, TransferRates

MODEL = ModelConfig("llama", 64, 16, 16, 2, 2, 1, 8, 128, 1e-5, 1e4)


def test_blocks_go_from_process_to_process() -> None:
    with TransferRates(MODEL, block_size=4, num_blocks=16, devices=("cpu", "cpu")) as rates:
        times = rates.measure(num_rounds=3)
        with pytest.raises(TransferError, match="changed"):  # block 0 of both, which were not pushed onto each other
            rates.check([0, 1], [1, 0])
    assert list(times) == ["shared_memory", COPY]
    assert rates.block_bytes == 2 * 2 * 1 * 4 * 8 * 2  # layers, K and V, heads, tokens, values, bytes
    for by_size in times.values():
        assert list(by_size) == [1, 2, 4, 8]
        assert all(len(ms) == 3 and min(ms) > 0.0 for ms in by_size.values())


def test_a_transport_the_device_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="transport"):
        TransferRates(MODEL, 4, 16, ("cpu", "cpu"), "peer_to_peer")
