"""The sampler against a naive oracle in float64, and against its stated distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nanopd.layers.sampler import SamplingTensors, probabilities, sample


def tensors(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, uniform=0.5, rows=1):
    def column(value, dtype):
        return torch.tensor(np.broadcast_to(value, rows).copy(), dtype=dtype)

    return SamplingTensors(
        temperature_R=column(temperature, torch.float32),
        top_k_R=column(top_k, torch.int64),
        top_p_R=column(top_p, torch.float32),
        min_p_R=column(min_p, torch.float32),
        uniform_R=column(uniform, torch.float32),
        any_random=bool(np.any(np.asarray(temperature) > 0)),
        any_greedy=bool(np.any(np.asarray(temperature) == 0)),
        any_cut=True,
    )


def oracle(logits, temperature, top_k, top_p, min_p):
    """The kept probabilities by the rules of the module's docstring, one token at a time, in float64."""
    z = np.asarray(logits, dtype=np.float64) / temperature
    p = np.exp(z - z.max())
    p /= p.sum()
    kept = p >= min_p * p.max()
    if top_k and top_k < len(p):
        kth = np.sort(np.where(kept, p, 0.0))[::-1][top_k - 1]
        kept &= p >= kth
    if top_p < 1.0:
        mass, total = 0.0, p[kept].sum()
        for value in np.sort(p[kept])[::-1]:
            mass += value
            if mass >= top_p * total:
                kept &= p >= value
                break
    return np.where(kept, p, 0.0)


# Multiples of 1/8 far apart compared with float32's rounding: the oracle's cuts then fall where float32's do.
LOGITS = st.lists(st.integers(-40, 40), min_size=2, max_size=40).map(lambda values: [value / 8 for value in values])


@settings(max_examples=300, deadline=None)
@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([0.05, 0.31, 0.501, 0.77, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.17, 0.9]),
    uniform=st.floats(0.0, 1.0, exclude_max=True),
)
def test_keeps_and_draws_what_the_oracle_does(logits, temperature, top_k, top_p, min_p, uniform):
    row = tensors(temperature, top_k, top_p, min_p, uniform)
    expected = oracle(logits, temperature, top_k, top_p, min_p)
    got = probabilities(torch.tensor([logits]), row)[0].double().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    cumulative = np.cumsum(expected)
    token = int(sample(torch.tensor([logits]), row)[0])
    assert expected[token] > 0
    slack = 1e-5  # float32 sums
    assert cumulative[token] + slack > uniform * cumulative[-1] >= cumulative[token] - expected[token] - slack


@pytest.mark.parametrize(
    "cut",
    [{}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 20, "top_p": 0.9, "min_p": 0.02, "temperature": 1.7}],
)
def test_frequencies_follow_the_stated_distribution(cut):
    rng = np.random.default_rng(7)
    logits = torch.from_numpy(rng.normal(0.0, 1.5, 50)).float()
    num_draws = 20_000
    row = tensors(uniform=rng.random(num_draws), rows=num_draws, **cut)
    tokens = sample(logits.expand(num_draws, -1), row).numpy()
    arguments = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **cut}
    expected = oracle(logits.numpy(), **arguments)
    expected *= num_draws / expected.sum()
    observed = np.bincount(tokens, minlength=len(expected))
    assert observed[expected == 0].sum() == 0
    frequent = expected >= 5  # the chi-square approximation's usual bound; the rare ones are taken together
    observed = [*observed[frequent], observed[~frequent].sum()]
    expected = [*expected[frequent], expected[~frequent].sum()]
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_rows_do_not_depend_on_their_neighbours():
    torch.manual_seed(0)
    logits = torch.randn(4, 3000)
    columns = {
        "temperature": np.array([0.0, 0.7, 1.0, 1.3]),
        "top_k": np.array([0, 5, 0, 0]),
        "top_p": np.array([1.0, 0.9, 0.5, 1.0]),
        "min_p": np.array([0.0, 0.0, 0.0, 0.1]),
        "uniform": np.array([0.1, 0.4, 0.6, 0.99]),
    }
    together = sample(logits, tensors(**columns, rows=4))
    alone = [int(sample(logits[i : i + 1], tensors(**{k: v[i] for k, v in columns.items()}))[0]) for i in range(4)]
    assert together.tolist() == alone
    assert alone[0] == int(logits[0].argmax())


def test_a_nucleus_wider_than_the_candidates_is_found_by_the_full_sort():
    logits = torch.linspace(0.0, 0.01, 5000)[None]
    kept = probabilities(logits, tensors(top_p=0.5))[0]
    share = 1e-3
    assert (
        abs(int((kept > 0).sum()) / 5000 - 0.4988) < share
    )  # the more probable half of the mass: a little under half of the tokens
    assert (kept[-1] > 0) and (kept[0] == 0)


def test_greedy_takes_the_lowest_id_among_equals():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert sample(logits, None).tolist() == [1]
    assert sample(logits, tensors(temperature=0.0)).tolist() == [1]


def test_equal_probabilities_stand_or_fall_together():
    kept = probabilities(torch.tensor([[1.0, 3.0, 1.0, 2.0]]), tensors(top_k=3))[0]
    assert (kept > 0).tolist() == [True, True, True, True]
    kept = probabilities(torch.tensor([[1.0, 3.0, 1.0, 2.0]]), tensors(top_k=2))[0]
    assert (kept > 0).tolist() == [False, True, False, True]


def test_the_largest_uniform_draws_a_token_that_was_kept():
    logits = torch.tensor([[5.0, 1.0, 0.0, -2.0]])
    largest = float(np.nextafter(1.0, 0.0))  # becomes 1.0 in float32
    assert sample(logits, tensors(top_k=2, uniform=largest)).tolist() == [1]
