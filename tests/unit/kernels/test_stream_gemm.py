"""Tiles of the stream GEMM: they fit shared memory, a wgmma and the kernel's own demands, and fill the SMs for the shapes of Qwen3-8B."""

import pytest

from nanopd.kernels.stream_gemm import StreamConfig, choose_config, pays, x_tiles

SHARED_LIMIT = 227 * 1024


@pytest.mark.parametrize("num_sms", [78, 132, 148])
@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize(
    ("width", "k"), [(16, 256), (208, 512), (3584, 18944), (6144, 4096), (12288, 4096), (151936, 1024)]
)
def test_chosen_tiles_fit(width: int, k: int, halves: int, num_sms: int) -> None:
    config = choose_config(width, k, halves, num_sms)
    assert config.rows % 32 == 0 and 32 <= config.rows <= 192
    assert config.rows // halves % (8 * config.splits) == 0
    assert config.splits == 1 or (config.splits == 2 and k >= 2048)
    for m in (9, 64, 65, 128, 129, 192, 193, 256, 300, 512, 8192):
        count, x_rows = x_tiles(m)
        sums = x_rows * (config.rows // config.splits + 8) * 4
        assert (count - 1) * x_rows < m <= count * x_rows
        assert config.stages(x_rows) >= (4 if x_rows <= 128 else 2)
        assert sums <= config.stages(x_rows) * config.stage_bytes(x_rows), "a CTA's own sums take the ring's place"
        assert config.shared_bytes(x_rows) <= SHARED_LIMIT


@pytest.mark.parametrize(
    ("width", "k", "halves", "config"),
    [
        (6144, 4096, 1, StreamConfig(96, 2)),
        (4096, 4096, 1, StreamConfig(64, 2)),
        (4096, 12288, 1, StreamConfig(64, 2)),
        (12288, 4096, 2, StreamConfig(192, 1)),
        (151936, 4096, 1, StreamConfig(192, 1)),
    ],
)
def test_tiles_of_qwen3_8b_fill_an_h200(width: int, k: int, halves: int, config: StreamConfig) -> None:
    assert choose_config(width, k, halves, 132) == config


def test_more_than_128_rows_pay_for_wide_tiles_only() -> None:
    """gate-up and the head of Qwen3-8B on an H200; the others are cuBLAS's."""
    assert pays(256, 24576, 4096, 132) and pays(129, 151936, 4096, 132)
    assert not pays(129, 6144, 4096, 132) and not pays(256, 4096, 12288, 132)
    assert pays(384, 24576, 4096, 132) and pays(512, 24576, 4096, 132)
    assert not pays(320, 24576, 4096, 132) and not pays(768, 24576, 4096, 132)
    assert pays(128, 6144, 4096, 132) and pays(9, 32, 256, 132)
