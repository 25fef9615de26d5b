"""nanopd as a library, on the embedded model."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nanopd import LLM, AsyncLLM, SamplingParams
from nanopd.errors import ConfigError, InvalidRequestError, PromptTooLongError, UnknownModelError, WorkerError
from nanopd.runtime.generation import GenerationOptions

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
REFERENCE = json.loads((REPOSITORY / "tests" / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]
OPTIONS = {"dtype": "float32", "num_blocks": 256}
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(max_queued_requests=3, **OPTIONS) as llm:
        yield llm


def test_token_ids_text_reason_and_report(llm: LLM) -> None:
    outputs = llm.generate([prompt["prompt_ids"] for prompt in REFERENCE], GREEDY)  # four times the queue bound
    for output, reference in zip(outputs, REFERENCE, strict=True):
        assert list(output.token_ids) == reference["output_ids"][:12]
        assert output.finish_reason == "length"
        assert output.report is not None and output.report.num_output_tokens == 12


def test_texts_are_encoded(llm: LLM) -> None:
    (output,) = llm.generate(REFERENCE[0]["text"], GREEDY)
    assert output.prompt == REFERENCE[0]["text"]
    assert list(output.prompt_token_ids) == REFERENCE[0]["prompt_ids"]
    assert list(output.token_ids) == REFERENCE[0]["output_ids"][:12]


def test_each_prompt_may_have_its_own_sampling(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True) for count in (2, 5)]
    assert [len(output.token_ids) for output in llm.generate(["a", "b"], params)] == [2, 5]
    with pytest.raises(InvalidRequestError, match="one for each of 3 prompts, got 2"):
        llm.generate(["a", "b", "c"], params)


def test_long_answers_start_first_and_outputs_keep_their_order(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, started = llm._async._generator, []
    submit = generator.submit
    monkeypatch.setattr(
        generator,
        "submit",
        lambda token_ids, *args, **options: started.append(token_ids) or submit(token_ids, *args, **options),
    )
    counts = [2, 7, 3, 5]
    params = [SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True) for count in counts]
    outputs = llm.generate([[10 + count] for count in counts], params)
    assert [len(output.token_ids) for output in outputs] == counts
    assert [output.prompt_token_ids for output in outputs] == [(10 + count,) for count in counts]
    assert started == [[17], [15], [13], [12]]


def test_chat_with_stop_and_logprobs(llm: LLM) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    one, two = llm.chat(
        [question, question], SamplingParams(max_tokens=20, temperature=0.0, stop=(" Paris",), logprobs=1)
    )
    assert one.text == two.text == "The capital of France is"
    assert one.finish_reason == "stop"
    assert len(one.logprobs) == len(one.token_ids)
    assert all(entry.top[0][0] == token for entry, token in zip(one.logprobs, one.token_ids, strict=True))


def test_n_choices(llm: LLM) -> None:
    (output,) = llm.generate("Once upon a time", SamplingParams(max_tokens=8, seed=3), n=3)
    assert [choice.index for choice in output.choices] == [0, 1, 2]
    assert len({choice.text for choice in output.choices}) == 3
    (single,) = llm.generate("Once upon a time", SamplingParams(max_tokens=8, seed=3))
    assert single.text == output.text  # the first choice is what a single one would be


def test_a_prompt_that_is_too_long_is_refused_and_the_next_one_served(llm: LLM) -> None:
    with pytest.raises(PromptTooLongError, match="at most"):
        llm.generate([[1] * 5000])
    assert llm.generate("a", GREEDY)[0].finish_reason == "length"


def test_stream_without_an_event_loop(llm: LLM) -> None:
    deltas = llm.stream(REFERENCE[0]["prompt_ids"], GREEDY)
    assert [token for delta in deltas for token in delta.token_ids] == REFERENCE[0]["output_ids"][:12]
    for _ in range(5):  # each left early: a place in the queue of three comes free
        for delta in llm.stream_chat([{"role": "user", "content": "Hi"}]):
            if delta.token_ids:
                break


def test_stream_and_leaving_it_early() -> None:
    async def main() -> None:
        async with AsyncLLM(**OPTIONS) as llm:
            pieces = [delta async for delta in llm.stream(REFERENCE[0]["prompt_ids"], GREEDY)]
            assert [token for delta in pieces for token in delta.token_ids] == REFERENCE[0]["output_ids"][:12]
            assert pieces[-1].finish_reason == "length"
            assert pieces[-1].report is not None

            endless = llm.stream("Hello", SamplingParams(max_tokens=None, ignore_eos=True))
            async for delta in endless:
                if delta.token_ids:
                    break
            assert len(llm.controller.snapshot().requests) == 1
            await endless.aclose()
            assert llm.controller.snapshot().requests == ()

    asyncio.run(main())


def test_processes_of_each_role_and_nothing_left_behind() -> None:
    with LLM(workers="1P+1D", **OPTIONS) as llm:
        workers = psutil.Process().children()
        assert len(workers) == 2
        (output,) = llm.generate(
            [REFERENCE[1]["prompt_ids"]], GREEDY, options=GenerationOptions(strategy="disaggregated")
        )
        assert list(output.token_ids) == REFERENCE[1]["output_ids"][:12]
        assert output.report is not None and output.report.decision.chosen.path == "disaggregated"
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    llm.close()  # again: nothing happens


def test_a_script_that_forgets_to_close_still_ends_its_workers() -> None:
    code = (
        f"from nanopd import LLM; llm = LLM(workers='1P+1D', **{OPTIONS}); print(llm._async.controller.worker_pids())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=True
    )
    pids = json.loads(result.stdout.replace("'", '"')).values()
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"model": "./nowhere"}, UnknownModelError, "nowhere"),
        ({"block_siz": 16}, ConfigError, "unknown option block_siz; valid options are"),
        ({"device": "no-such-device"}, WorkerError, "no-such-device"),
    ],
)
def test_what_cannot_start_says_so_and_leaves_nothing(options: dict, kind: type[Exception], words: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(kind, match=words):
        LLM(**{**OPTIONS, **options})
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
        assert not thread.is_alive()
