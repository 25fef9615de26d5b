"""Longest first."""

from nanopd.scheduler import longest_first


def test_long_requests_come_first_unbounded_ones_before_all_and_equals_as_they_come():
    assert longest_first([5, None, 9, 5, None, 1]) == [1, 4, 2, 0, 3, 5]
    assert longest_first([]) == []
