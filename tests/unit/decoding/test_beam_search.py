"""The search itself, against a plain one over the whole vocabulary."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plain_beam_search import plain_beam_search

from nanopd.decoding import BeamSearch, num_candidates
from nanopd.errors import InvalidRequestError
from nanopd.request import EARLY_STOPPING, BeamParams, TokenLogprobs

VOCAB_SIZE = 30


def language(seed: int, sharpness: float):
    """A random model: log-probabilities of the next token, a function of the output so far."""

    def logprobs(tokens) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(repr((seed, tuple(tokens))).encode()))
        logits = sharpness * rng.standard_normal(VOCAB_SIZE)
        return logits - np.logaddexp.reduce(logits)

    return logprobs


def search(logprobs, params: BeamParams, max_tokens: int, stop_ids: frozenset[int]) -> BeamSearch:
    beams = BeamSearch(params, stop_ids, max_tokens)
    count = num_candidates(params, stop_ids)
    while not beams.is_done:
        rows = [logprobs(beam.token_ids) for beam in beams.beams]
        best = [np.argsort(-row, kind="stable")[:count] for row in rows]
        tops = [tuple((int(t), float(row[t])) for t in ids) for row, ids in zip(rows, best, strict=True)]
        beams.advance([TokenLogprobs(top[0][0], top[0][1], top) for top in tops])
    return beams


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sharpness=st.sampled_from([0.3, 1.0, 3.0]),
    width=st.integers(1, 6),
    max_tokens=st.integers(1, 9),
    num_stop=st.integers(0, 8),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]),
    early_stopping=st.sampled_from(EARLY_STOPPING),
)
def test_equals_a_plain_search(seed, sharpness, width, max_tokens, num_stop, length_penalty, early_stopping) -> None:
    logprobs, stop_ids = language(seed, sharpness), frozenset(range(num_stop))
    found = search(logprobs, BeamParams(width, length_penalty, early_stopping), max_tokens, stop_ids).hypotheses
    expected = plain_beam_search(logprobs, width, max_tokens, stop_ids, length_penalty, early_stopping)
    assert [hypothesis.token_ids for hypothesis in found] == [tokens for tokens, _ in expected]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in expected])
    assert len(found) == width
    for hypothesis in found:
        total = sum(logprobs(hypothesis.token_ids[:i])[token] for i, token in enumerate(hypothesis.token_ids))
        assert hypothesis.logprob == pytest.approx(total)
        ends = hypothesis.token_ids[-1] in stop_ids
        assert hypothesis.finish_reason == ("stop" if ends else "length")
        assert not stop_ids.intersection(hypothesis.token_ids[:-1])


def test_width_one_is_greedy() -> None:
    logprobs = language(1, 1.0)
    tokens: list[int] = []
    for _ in range(6):
        tokens.append(int(np.argmax(logprobs(tokens))))
    (only,) = search(logprobs, BeamParams(1), 6, frozenset()).hypotheses
    assert list(only.token_ids) == tokens


def test_never_with_no_length_penalty_finds_what_exhaustive_search_finds() -> None:
    """Six tokens, three long: a beam as wide as the tree misses nothing."""
    global_vocab = 6
    full = language(5, 1.0)

    def logprobs(tokens) -> np.ndarray:
        return np.where(np.arange(VOCAB_SIZE) < global_vocab, full(tokens), -1e9)

    params = BeamParams(19, 0.0, "never")
    found = search(logprobs, params, 2, frozenset({0}))
    every = [((0,), logprobs(())[0])] + [
        ((a, b), logprobs(())[a] + logprobs((a,))[b]) for a in range(1, 6) for b in range(6)
    ]
    best = sorted(every, key=lambda pair: -pair[1])[:5]
    assert [hypothesis.token_ids for hypothesis in found.hypotheses[:5]] == [tokens for tokens, _ in best]


def test_params_are_checked() -> None:
    with pytest.raises(InvalidRequestError, match="width must be between 1 and 20, got 0"):
        BeamParams(0)
    with pytest.raises(InvalidRequestError, match="early_stopping must be one of heuristic, first, never, got 'soon'"):
        BeamParams(early_stopping="soon")
    with pytest.raises(InvalidRequestError, match="must be at most 20 together, got 19 and 2"):
        num_candidates(BeamParams(19), frozenset({1, 2}))
