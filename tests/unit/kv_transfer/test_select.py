"""Which transport a worker gets, and what is refused."""

import pytest

from nanopd.config import EngineConfig
from nanopd.errors import ConfigError
from nanopd.kv_transfer.select import open_endpoint


@pytest.mark.parametrize("transport", ["auto", "shared_memory"])
def test_cpu_workers_share_memory(transport):
    endpoint = open_endpoint("w", "cpu", transport)
    assert endpoint.transport == "shared_memory"
    endpoint.close()


@pytest.mark.parametrize(("device", "transport"), [("cpu", "peer_to_peer"), ("cuda:0", "shared_memory")])
def test_a_transport_the_device_does_not_have_is_refused(device, transport):
    with pytest.raises(ConfigError, match=f"transport on {device} must be one of auto, .*got '{transport}'"):
        open_endpoint("w", device, transport)


def test_an_unknown_transport_is_refused_before_any_worker_starts():
    with pytest.raises(ConfigError, match="transport must be one of .*got 'pigeon'"):
        EngineConfig(transport="pigeon")
