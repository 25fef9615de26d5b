"""Drafts from the sequence's own past."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanopd.decoding import DraftContext, PromptLookup
from nanopd.request import Request, SamplingParams

REQUEST = Request("r", (1,), SamplingParams(temperature=0.0))


def draft(token_ids: list[int], num_draft_tokens: int = 4, **options: int) -> list[int]:
    lookup = PromptLookup(num_draft_tokens, **options)
    (guess,) = lookup.propose([DraftContext("s", REQUEST, array("i", token_ids), 1, 99)]).values()
    return list(guess)


def naive(token_ids: list[int], count: int, max_ngram: int, min_ngram: int) -> list[int]:
    for size in range(max_ngram, min_ngram - 1, -1):
        for start in range(len(token_ids) - size - 1, -1, -1):
            if token_ids[start : start + size] == token_ids[-size:]:
                found = token_ids[start + size :]
                while len(found) < count:
                    found = found + found
                return found[:count]
    return []


def test_what_followed_the_last_time_is_proposed() -> None:
    assert draft([7, 8, 9, 1, 2, 3, 4, 5, 0, 8, 9]) == [1, 2, 3, 4]


def test_the_longest_ngram_wins_over_the_latest() -> None:
    assert draft([1, 2, 3, 50, 51, 2, 3, 60, 61, 1, 2, 3], 2) == [50, 51]
    assert draft([1, 2, 3, 50, 51, 2, 3, 60, 61, 1, 2, 3], 2, max_ngram=2) == [60, 61]


def test_a_repetition_goes_on() -> None:
    assert draft([5, 6, 5, 6, 5, 6], 5) == [5, 6, 5, 6, 5]
    assert draft([3] * 8, 3) == [3, 3, 3]


def test_nothing_is_proposed_for_what_is_new() -> None:
    assert draft([1, 2, 3, 4]) == draft([1]) == draft([4, 1, 4]) == []
    assert draft([4, 1, 4], 2, min_ngram=1) == [1, 4]


def test_an_ngram_is_found_only_at_whole_tokens() -> None:
    """The bytes of 1, 256 are those of 256, 65536 moved by one."""
    assert draft([256, 65536, 7, 1, 256], min_ngram=2) == []
    assert draft([1, 256, 7, 256, 65536, 9, 1, 256], 1) == [7]


@given(
    st.lists(st.sampled_from([0, 1, 256, 65536, 257]), min_size=1, max_size=40),
    st.integers(1, 6),
    st.sampled_from([(1, 1), (3, 1), (3, 2), (4, 4)]),
)
def test_equals_the_naive_search(token_ids: list[int], count: int, sizes: tuple[int, int]) -> None:
    max_ngram, min_ngram = sizes
    found = draft(token_ids, count, max_ngram=max_ngram, min_ngram=min_ngram)
    assert found == naive(token_ids, count, max_ngram, min_ngram)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="num_draft_tokens must be at least 1, got 0"):
        PromptLookup(0)
    with pytest.raises(ValueError, match=r"min_ngram must be between 1 and max_ngram \(3\), got 4"):
        PromptLookup(4, min_ngram=4)
