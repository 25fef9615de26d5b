import pytest
from support.fake_controller import fake_logprobs
from support.tiny_tokenizer import IM_END, tiny_tokenizer

from nanopd.request import Request, SamplingParams
from nanopd.tokenizer import OutputProcessor

TOKENIZER = tiny_tokenizer()


def processor(include_stop: bool = False, skip_special: bool = True, **sampling: object) -> OutputProcessor:
    request = Request("r", (1,), SamplingParams(**sampling), eos_token_ids=(IM_END,))
    return OutputProcessor(
        TOKENIZER, request, skip_special_tokens=skip_special, include_stop_str_in_output=include_stop
    )


def test_text_follows_tokens_and_the_end_token_is_no_text() -> None:
    output = processor(skip_special=False)
    deltas = [output.push([token]) for token in (*b"hi", IM_END)]
    assert [delta.text for delta in deltas] == ["h", "i", ""]
    assert deltas[-1].token_ids == (IM_END,)
    assert output.finish() == ""
    assert not output.is_stopped


def test_an_ignored_end_token_is_text() -> None:
    output = processor(skip_special=False, ignore_eos=True)
    assert output.push([IM_END]).text == "<|im_end|>"


def test_a_stop_string_ends_text_and_tokens() -> None:
    output = processor(stop=("lo w",))
    delta = output.push(list(b"hello world"), [fake_logprobs(token, 0) for token in b"hello world"])
    assert delta.text == "hel"
    assert bytes(delta.token_ids) == b"hello w"
    assert len(delta.logprobs) == len(delta.token_ids)
    assert (output.is_stopped, output.stop_string, output.finish()) == (True, "lo w", "")
    assert output.push(list(b"more")).token_ids == ()


def test_a_stop_string_can_be_kept() -> None:
    output = processor(stop=("lo",), include_stop=True)
    assert output.push(list(b"hello world")).text == "hello"


def test_withheld_text_comes_at_the_end() -> None:
    output = processor(stop=("world",))
    assert output.push(list(b"hello wor")).text == "hello "
    assert output.finish() == "wor"


def test_a_stop_token_id_is_kept_out_of_the_text_unless_asked_for() -> None:
    assert processor(stop_token_ids=(ord("!"),)).push(list(b"hi!")).text == "hi"
    assert processor(stop_token_ids=(ord("!"),), include_stop=True).push(list(b"hi!")).text == "hi!"


@pytest.mark.parametrize(("min_tokens", "text"), [(0, ""), (1, "a"), (3, "aba")])
def test_stop_strings_count_only_after_min_tokens(min_tokens: int, text: str) -> None:
    output = processor(stop=("a", "b"), min_tokens=min_tokens)
    assert output.push(list(b"abab")).text == text
    assert output.is_stopped
