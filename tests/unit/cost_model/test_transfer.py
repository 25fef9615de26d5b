"""Transfer time, and what overlap leaves of it."""

import pytest

from nanopd.cost_model import TransferModel
from nanopd.errors import ConfigError

MODEL = TransferModel(0.5, 2.0)  # 2 GB/s: 2e6 bytes a millisecond


def test_latency_plus_bytes_over_bandwidth() -> None:
    assert MODEL.transfer_ms(4_000_000) == pytest.approx(2.5)
    assert MODEL.transfer_ms(4_000_000, share=0.5) == pytest.approx(4.5)
    assert MODEL.transfer_ms(0) == 0.0


def test_a_fast_link_exposes_only_the_last_chunk() -> None:
    ready = [10.0, 20.0, 30.0, 40.0]
    assert MODEL.exposed_ms(4 * 2_000_000, ready, 2_000_000) == pytest.approx(1.0 + 0.5)


def test_a_slow_link_queues_its_chunks() -> None:
    """Chunks of 30 ms, ready every 10: f = 40, 70, 100, 130 after 40 ready."""
    slow = TransferModel(0.0, 0.1)
    assert slow.exposed_ms(4 * 3_000_000, [10.0, 20.0, 30.0, 40.0], 3_000_000) == pytest.approx(90.0)


def test_without_overlap_it_is_the_whole_transfer() -> None:
    assert MODEL.exposed_ms(8_000_000, [7.0], 8_000_000) == pytest.approx(MODEL.transfer_ms(8_000_000))
    assert MODEL.exposed_ms(0, [7.0], 100) == 0.0


def test_a_short_last_chunk_counts_its_bytes() -> None:
    assert MODEL.exposed_ms(5_000_000, [1.0, 2.0, 3.0], 2_000_000) == pytest.approx(0.5 + 0.5)


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="3 chunks of 2, got 1 ready times"):
        MODEL.exposed_ms(5, [0.0], 2)
    with pytest.raises(ConfigError, match="bandwidth_gb_s > 0"):
        TransferModel(0.0, 0.0)
