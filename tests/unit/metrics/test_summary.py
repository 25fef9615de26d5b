import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanopd.metrics import Summary, percentile

numbers = st.floats(min_value=-1e6, max_value=1e6)


@given(st.lists(numbers, min_size=1, max_size=40), st.floats(min_value=0, max_value=100))
def test_percentile_is_numpys(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(numpy.percentile(values, q)), rel=1e-9, abs=1e-6)


def test_percentile_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="0 values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="q=101"):
        percentile([1.0], 101)


def test_summary_leaves_out_what_is_missing() -> None:
    summary = Summary.of([3.0, None, 1.0, 2.0])
    assert summary is not None
    assert (summary.count, summary.mean, summary.p50, summary.max) == (3, 2.0, 2.0, 3.0)
    assert Summary.of([None]) is None
