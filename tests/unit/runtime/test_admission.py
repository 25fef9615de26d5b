import pytest

from nanopd.errors import InvalidRequestError, OverloadedError, PromptTooLongError
from nanopd.request import Request, SamplingParams
from nanopd.runtime.admission import QueueBound, resolve_request


def resolve(prompt, max_model_len=10, **sampling):
    return resolve_request(Request("r", tuple(prompt), SamplingParams(**sampling)), 100, max_model_len, now=5.0)


def test_open_values_are_filled_in():
    request = resolve([1, 2, 3], max_tokens=None)
    assert request.sampling.max_tokens == 7
    assert request.arrival_time == 5.0
    assert request.sampling.seed is not None
    assert request.sampling.seed != resolve([1, 2, 3]).sampling.seed
    assert resolve([1], seed=7).sampling.seed == 7


def test_tokens_are_capped_to_the_room_left():
    assert resolve([1] * 6, max_tokens=100, min_tokens=50).sampling.max_tokens == 4
    assert resolve([1] * 6, max_tokens=100, min_tokens=50).sampling.min_tokens == 4
    assert resolve([1] * 6, max_tokens=2).sampling.max_tokens == 2


def test_a_prompt_must_leave_room_for_one_token():
    assert resolve([1] * 9).sampling.max_tokens == 1
    with pytest.raises(PromptTooLongError, match="prompt must have at most 9 tokens, got 10"):
        resolve([1] * 10)


@pytest.mark.parametrize(
    ("prompt", "sampling", "field"),
    [
        ([], {}, "prompt"),
        ([1, 100], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([1], {"logit_bias": {100: 1.0}}, "logit_bias"),
        ([1], {"stop_token_ids": (500,)}, "stop_token_ids"),
    ],
)
def test_what_no_worker_could_serve_is_refused_by_name(prompt, sampling, field):
    with pytest.raises(InvalidRequestError) as caught:
        resolve(prompt, **sampling)
    assert caught.value.field == field


def test_the_queue_bound_estimates_when_to_retry():
    bound = QueueBound(2)
    bound.check(1, now=0.0)
    with pytest.raises(OverloadedError) as caught:
        bound.check(2, now=0.0)
    assert caught.value.retry_after_s == 1.0
    for when in (0.0, 10.0, 20.0):
        bound.finished(when)
    with pytest.raises(OverloadedError) as caught:
        bound.check(2, now=30.0)
    assert caught.value.retry_after_s == 10.0
