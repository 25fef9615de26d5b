import pytest

from nanopd.cost_model import HardwareProfile, StepModel, TransferModel
from nanopd.cost_model.step_model import StepTerms, Table


@pytest.fixture
def profile() -> HardwareProfile:
    """Round numbers: a step takes 10 ms, and 0.01 ms more for each token beyond the first."""
    terms = StepTerms(Table((1, 1001), (10.0, 20.0)), Table((0,), (0.0,)))
    return HardwareProfile(
        hardware="test",
        model="test",
        dtype="float32",
        source="made up",
        kv_bytes_per_token=1000,
        num_blocks=4000,
        max_model_len=32768,
        step=StepModel(terms),
        transfer=TransferModel(1.0, 0.001),  # 1 MB/s: a block of 16 tokens takes 16 ms
        host_overhead_ms=2.0,
    )
