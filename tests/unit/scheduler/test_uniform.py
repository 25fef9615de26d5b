"""The counter-based generator behind sampling."""

from array import array

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from nanopd.scheduler import stream_key, uniform


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 10**6))
def test_in_range_and_exact_in_float32(seed: int, position: int) -> None:
    value = uniform(stream_key(seed), position)
    assert 0.0 <= value < 1.0
    assert array("f", [value])[0] == value


def test_is_splitmix64() -> None:
    """First outputs of the reference implementation from state 1234567 (Vigna's splitmix64.c), top 24 bits."""
    reference = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [uniform(1234567, i) for i in range(5)] == [(x >> 40) / 2**24 for x in reference]


def test_uniform_along_a_sequence_and_across_seeds() -> None:
    along = [uniform(stream_key(42), i) for i in range(20_000)]
    across = [uniform(stream_key(seed), 7) for seed in range(20_000)]
    for sample in (along, across):
        assert kstest(sample, "uniform").pvalue > 1e-4
    pairs = [0] * 64  # successive values are independent
    for a, b in zip(along, along[1:], strict=False):
        pairs[int(a * 8) * 8 + int(b * 8)] += 1
    assert chisquare(pairs).pvalue > 1e-4
