"""Prompts, choices and stop strings over a scripted controller."""

import asyncio

import pytest
from support.fake_controller import FakeController
from support.tiny_tokenizer import IM_END, tiny_tokenizer

from nanopd.errors import InvalidRequestError, OverloadedError, RequestFailedError
from nanopd.request import FinishReason, SamplingParams
from nanopd.runtime.completion import Completion, collect_all
from nanopd.runtime.generation import Generator

LONG = SamplingParams(max_tokens=100)


def make(says: str = "hello world", **options: int) -> tuple[FakeController, Generator]:
    controller = FakeController(lambda request: [*says.encode(), IM_END], **options)
    return controller, Generator(controller, tiny_tokenizer())  # type: ignore[arg-type]


def collect(generator: Generator, sampling: SamplingParams = LONG, n: int = 1) -> list[Completion]:
    async def main() -> list[Completion]:
        (choices,) = await collect_all([generator.submit([1], sampling, n=n)])
        return choices

    return asyncio.run(main())


def test_tokens_text_and_end() -> None:
    _, generator = make()
    (choice,) = collect(generator)
    assert (choice.text, choice.finish_reason, choice.token_ids[-1]) == ("hello world", FinishReason.STOP, IM_END)
    assert choice.report is not None


def test_eos_ids_come_from_the_model_and_the_tokenizer() -> None:
    controller, generator = make()
    collect(generator)
    assert controller.submitted[0].eos_token_ids == (IM_END,)


def test_a_stop_string_ends_the_request_at_the_workers_too() -> None:
    controller, generator = make()
    (choice,) = collect(generator, SamplingParams(max_tokens=100, stop=("lo ",)))
    assert (choice.text, choice.finish_reason, choice.stop_string) == ("hel", FinishReason.STOP, "lo ")
    assert bytes(choice.token_ids) == b"hello "
    assert list(controller.aborted.values()) == [FinishReason.STOP]


def test_withheld_text_is_given_out_at_the_end() -> None:
    _, generator = make()
    (choice,) = collect(generator, SamplingParams(max_tokens=9, stop=("world",)))
    assert (choice.text, choice.finish_reason) == ("hello wor", FinishReason.LENGTH)


def test_choices_are_seeded_apart_and_repeatably() -> None:
    controller, generator = make()
    choices = collect(generator, SamplingParams(max_tokens=100, seed=7), n=3)
    assert [choice.index for choice in choices] == [0, 1, 2]
    seeds = [request.sampling.seed for request in controller.submitted]
    collect(generator, SamplingParams(max_tokens=100, seed=7), n=3)
    assert seeds == [request.sampling.seed for request in controller.submitted[3:]]
    assert seeds[0] == 7 and len(set(seeds)) == 3


def test_without_a_seed_every_choice_draws_its_own() -> None:
    controller, generator = make()
    collect(generator, n=4)
    assert len({request.sampling.seed for request in controller.submitted}) == 4


def test_leaving_the_block_aborts_what_is_unfinished() -> None:
    controller, generator = make()

    async def main() -> None:
        async with generator.submit([1], LONG, n=2) as generation:
            async for delta in generation:
                if delta.token_ids:
                    break

    asyncio.run(main())
    assert controller.live == {}
    assert set(controller.aborted.values()) == {FinishReason.ABORT}
    assert len(controller.aborted) == 2


def test_leaving_after_the_end_aborts_nothing() -> None:
    controller, generator = make()
    collect(generator, n=2)
    assert controller.aborted == {}


def test_all_choices_are_accepted_or_none() -> None:
    controller, generator = make()
    controller.capacity = 2
    with pytest.raises(OverloadedError):
        generator.submit([1], LONG, n=3)
    assert controller.live == {}


def test_what_the_controller_refuses_is_refused_at_submit() -> None:
    _, generator = make()
    for prompt in ([], [999]):
        with pytest.raises(InvalidRequestError):
            generator.submit(prompt, LONG)


def test_a_failed_choice_raises_and_frees_the_others() -> None:
    controller, generator = make()
    controller.fails_at = 3
    with pytest.raises(RequestFailedError, match="lost 4 times"):
        collect(generator, n=2)
    assert controller.live == {}
