"""How long a guess should be, given how often guesses were right and what they cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanopd.decoding import Chances, GuessPrices, GuessRecord, Prices, draft_length

PRICE = Prices(0.2, 0.0)


def gain(chances: Chances, prices: Prices, length: int) -> float:
    """Tokens that a draft adds to a step, minus what it costs."""
    tokens = sum(chances.first * chances.later**j for j in range(length))
    return tokens - length * prices.row - (prices.step if length else 0.0)


CHANCES = st.builds(Chances, st.floats(0.01, 0.99), st.floats(0.01, 0.97))
PRICES = st.builds(Prices, st.floats(0.02, 0.98), st.floats(0.0, 3.0))


@given(chances=CHANCES, prices=PRICES)
def test_no_other_length_gains_more(chances: Chances, prices: Prices) -> None:
    best = max(gain(chances, prices, length) for length in range(200))
    assert gain(chances, prices, draft_length(chances, prices)) == pytest.approx(best, abs=1e-9)


@given(chances=CHANCES, prices=PRICES)
def test_many_pay_for_verifying_together(chances: Chances, prices: Prices) -> None:
    shared = draft_length(chances, Prices(prices.row, prices.step / 4))
    assert draft_length(chances, prices, num_sharing=4) == shared >= draft_length(chances, prices)


@pytest.mark.parametrize(
    ("base_ms", "row_ms", "verify_ms", "chances"),
    [
        (4.0, 0.05, 0.0, Chances(0.8, 0.8)),
        (4.0, 0.05, 8.0, Chances(0.8, 0.8)),
        (50.0, 3.0, 50.0, Chances(0.5, 0.95)),
        (50.0, 3.0, 50.0, Chances(0.1, 0.5)),
        (10.0, 9.0, 1.0, Chances(0.9, 0.6)),
    ],
)
def test_at_the_prices_of_its_own_steps_it_is_the_fastest(
    base_ms: float, row_ms: float, verify_ms: float, chances: Chances
) -> None:
    """One sequence: following the prices leads to the length with the most tokens per ms."""

    def rate(length: int) -> float:
        tokens = 1.0 + gain(chances, Prices(0.0, 0.0), length)
        return tokens / (base_ms + row_ms * (1 + length) + verify_ms * (length > 0))

    length = 0
    for _ in range(10):
        length = draft_length(chances, Prices(row_ms * rate(length), verify_ms * rate(length)))
    assert length == max(range(200), key=rate)


def test_a_sequence_that_guesses_wrong_gives_up_and_tries_again_later() -> None:
    record, length, lengths = GuessRecord(), 100, []
    for _ in range(200):
        lengths.append(draft_length(record.chances(length), PRICE))
        if lengths[-1]:
            record.observe(0, lengths[-1], length)
        length += 1
    assert lengths[0] >= 3 and max(lengths[4:]) == 1
    assert 3 <= sum(lengths[100:]) <= 20  # one token, every ten tokens or so


def test_it_comes_back_when_the_guesses_are_right_again() -> None:
    record, length = GuessRecord(), 100
    for _ in range(100):
        if num_draft_tokens := draft_length(record.chances(length), PRICE):
            record.observe(0, num_draft_tokens, length)
        length += 1
    start = length
    while (num_draft_tokens := draft_length(record.chances(length), PRICE)) < 4:
        if num_draft_tokens:
            record.observe(num_draft_tokens, num_draft_tokens, length)
        length += 1 + num_draft_tokens
    assert length - start < 40


def test_what_comes_after_the_first_wrong_token_tells_nothing() -> None:
    short, long = GuessRecord(), GuessRecord()
    short.observe(2, 3, 50)
    long.observe(2, 9, 50)
    assert short.chances(50) == long.chances(50)
    assert short.chances(50).first > GuessRecord().chances(50).first
    assert short.chances(50).later < GuessRecord().chances(50).later


@pytest.mark.parametrize(("base_s", "row_s", "verify_s"), [(4e-3, 2e-4, 0.0), (50e-3, 3e-3, 50e-3), (50e-3, 0.0, 9e-3)])
def test_the_prices_are_learnt_from_steps(base_s: float, row_s: float, verify_s: float) -> None:
    prices, total_s = GuessPrices(), 0.0
    assert prices.now() == Prices(0.1, 0.1)
    for index in range(300):
        num_drafted = (0, 0, 3, 1, 5)[index % 5]
        seconds = base_s + row_s * (1 + num_drafted) + verify_s * (num_drafted > 0)
        prices.observe(1 + num_drafted, 1, seconds, num_drafted > 0)
        total_s += seconds
    row, step = prices.now()
    assert row == pytest.approx(max(row_s * 300 / total_s, 0.01), abs=0.01)
    assert step == pytest.approx(verify_s * 300 / total_s, abs=0.06)


def test_a_larger_batch_is_not_mistaken_for_the_cost_of_verifying() -> None:
    """Plain steps were last seen with one sequence; now there are eight, and all of them guess."""
    prices = GuessPrices()
    for index in range(100):
        num_rows = (1, 3, 5)[index % 3]
        prices.observe(num_rows, 1, 0.05 + 0.001 * num_rows, num_rows > 1)
    for index in range(100):
        num_rows = (16, 24)[index % 2]
        prices.observe(num_rows, 8, 0.05 + 0.001 * num_rows, True)
    assert prices.now().step < 0.1


def test_the_prices_stay_where_they_began_while_nothing_is_verified() -> None:
    prices = GuessPrices()
    for _ in range(50):
        prices.observe(1, 1, 0.05, False)
    assert prices.now() == Prices(0.1, 0.1)


def test_one_stalled_step_does_not_change_the_prices_for_good() -> None:
    steady, stalled = GuessPrices(), GuessPrices()
    for index in range(200):
        num_rows = (1, 5)[index % 2]
        seconds = 0.05 + 0.002 * num_rows
        steady.observe(num_rows, 1, seconds, num_rows > 1)
        stalled.observe(num_rows, 1, 10.0 if index == 101 else seconds, num_rows > 1)
    assert stalled.now() == pytest.approx(steady.now(), abs=0.05)


def test_no_time_is_no_observation() -> None:
    prices = GuessPrices()
    prices.observe(5, 2, 0.0, True)
    assert prices.now() == Prices(0.1, 0.1)
