import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanopd.layers.penalties import adjust_row_, needs_adjustment
from nanopd.request import SamplingParams

IDS = st.lists(st.integers(0, 11), max_size=8)


@settings(deadline=None)
@given(
    prompt=IDS,
    output=IDS,
    repetition=st.sampled_from([0.5, 1.0, 1.7]),
    presence=st.sampled_from([-1.0, 0.0, 0.5]),
    frequency=st.sampled_from([-0.25, 0.0, 0.5]),
    bias=st.dictionaries(st.integers(0, 15), st.sampled_from([-100.0, 0.5, 3.0]), max_size=3),
    suppressed=st.lists(st.integers(0, 9), max_size=2),
)
def test_follows_the_definition_token_by_token(prompt, output, repetition, presence, frequency, bias, suppressed):
    raw = [0.0, 1.0, -1.0, 2.5, -2.5, 3.0, 0.5, -0.5, 1.5, -3.0]  # ids 10 and 11 lie outside the vocabulary
    params = SamplingParams(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    expected = []
    for token, logit in enumerate(raw):
        value = logit + bias.get(token, 0.0)
        if token in prompt or token in output:
            value = value / repetition if value > 0 else value * repetition
        if token in output:
            value -= presence + frequency * output.count(token)
        expected.append(-math.inf if token in suppressed else value)
    logits = torch.tensor(raw)
    adjust_row_(logits, params, prompt, output, suppressed)
    torch.testing.assert_close(logits, torch.tensor(expected))
    if not needs_adjustment(params, suppressed):
        assert expected == raw
