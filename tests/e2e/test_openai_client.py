"""The real ``openai`` client against a real server: one collocated, one prefill and one decode worker process on the embedded model."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
NUM_BLOCKS = 256
REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
STRATEGIES = ("collocated", "disaggregated", "adaptive")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--workers", "1C+1P+1D", "--dtype", "float32", "--num-blocks", str(NUM_BLOCKS)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def complete(client: openai.OpenAI, prompt: Any, **options: Any) -> Any:
    return client.completions.create(**{"model": MODEL, "prompt": prompt, "temperature": 0, **options})


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        **{"model": MODEL, "messages": CHAT, "temperature": 0, "max_tokens": 32, **options}
    )


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_greedy_text_is_the_references_on_every_path(client: openai.OpenAI, strategy: str) -> None:
    def one(reference: dict[str, Any]) -> tuple[str, str]:
        raw = client.completions.with_raw_response.create(
            model=MODEL,
            prompt=reference["prompt_ids"],
            max_tokens=24,
            temperature=0,
            extra_body={"strategy": strategy, "ignore_eos": True, "skip_special_tokens": False},
        )
        return raw.parse().choices[0].text, raw.headers["x-nanopd-path"]

    with ThreadPoolExecutor(len(REFERENCE)) as pool:
        results = list(pool.map(one, REFERENCE))
    for (text, path), reference in zip(results, REFERENCE, strict=True):
        assert reference["output_text"].startswith(text.rstrip("\ufffd"))
        assert len(text) > 20
        assert strategy == "adaptive" or path == strategy


def test_beam_search(client: openai.OpenAI) -> None:
    greedy = complete(client, "The capital of France is", max_tokens=6).choices[0]
    found = complete(client, "The capital of France is", max_tokens=6, n=4, extra_body={"use_beam_search": True})
    scores = [choice.score for choice in found.choices]  # type: ignore[attr-defined]
    assert scores == sorted(scores, reverse=True) and len({choice.text for choice in found.choices}) == 4
    single = complete(client, "The capital of France is", max_tokens=6, extra_body={"use_beam_search": True})
    assert single.choices[0].text == greedy.text
    with pytest.raises(openai.BadRequestError, match="stream does not go with use_beam_search"):
        complete(client, "x", stream=True, extra_body={"use_beam_search": True})


def test_chat(client: openai.OpenAI) -> None:
    answer = chat(client)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chat_stream(client: openai.OpenAI, strategy: str) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}, extra_body={"strategy": strategy}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "The capital of France is Paris."
    assert len(chunks) > 6
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 8


def test_n_choices_differ_and_repeat_with_their_seed(client: openai.OpenAI) -> None:
    options = {"n": 3, "temperature": 1.0, "seed": 11, "max_tokens": 12}
    first, again = (
        [choice.text for choice in complete(client, "Once upon a time", **options).choices] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_seed_is_the_same_text_on_every_path(client: openai.OpenAI, strategy: str) -> None:
    options: dict[str, Any] = {
        "temperature": 0.9,
        "seed": 5,
        "max_tokens": 16,
        "extra_body": {"strategy": strategy, "top_k": 50},
    }
    expected = complete(
        client, "The best thing about", **{**options, "extra_body": {"strategy": "collocated", "top_k": 50}}
    )
    assert complete(client, "The best thing about", **options).choices[0].text == expected.choices[0].text


def test_list_of_prompts_and_token_ids(client: openai.OpenAI) -> None:
    texts = [prompt["text"] for prompt in REFERENCE[:3]]
    ids = [prompt["prompt_ids"] for prompt in REFERENCE[:3]]
    by_text, by_ids = (complete(client, prompts, max_tokens=8) for prompts in (texts, ids))
    assert [choice.index for choice in by_text.choices] == [0, 1, 2]
    assert [choice.text for choice in by_text.choices] == [choice.text for choice in by_ids.choices]
    assert by_text.usage.prompt_tokens == sum(map(len, ids))


def test_stop_string(client: openai.OpenAI) -> None:
    choice = chat(client, stop=[" Paris", "Berlin"]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The capital of France is", "stop")


def test_chat_logprobs_are_the_references(client: openai.OpenAI) -> None:
    content = chat(client, logprobs=True, top_logprobs=5, max_tokens=4).choices[0].logprobs.content
    assert [entry.token for entry in content] == ["The", " capital", " of", " France"]
    reference = REFERENCE[0]["top5_logprobs"]
    for entry, expected in zip(content, reference, strict=False):
        values = sorted((item.logprob for item in entry.top_logprobs), reverse=True)
        assert values == pytest.approx([pair[1] for pair in expected], abs=1e-3)
        assert entry.logprob == pytest.approx(values[0])


@pytest.mark.parametrize("strategy", ["collocated", "disaggregated"])
def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI, strategy: str) -> None:
    """What evaluation harnesses do: the likelihood of a given continuation."""

    def score(text: str) -> tuple[list[str], float]:
        extra = {"strategy": strategy}
        choice = complete(client, text, echo=True, logprobs=1, max_tokens=1, extra_body=extra).choices[0]
        assert choice.text.startswith(text)
        assert choice.logprobs.token_logprobs[0] is None
        return choice.logprobs.tokens, sum(choice.logprobs.token_logprobs[1:-1])

    tokens, likely = score("The capital of France is Paris")
    _, unlikely = score("The capital of France is banana")
    assert tokens[:6] == ["The", " capital", " of", " France", " is", " Paris"]
    assert likely > unlikely + 3


def test_logit_bias_and_penalties_act(client: openai.OpenAI) -> None:
    plain = complete(client, "a a a a a a a", max_tokens=6).choices[0].text
    assert complete(client, "a a a a a a a", max_tokens=6, frequency_penalty=2.0).choices[0].text != plain
    (token,) = httpx.post(f"{str(client.base_url).removesuffix('/v1/')}/tokenize", json={"prompt": " Rome"}).json()[
        "tokens"
    ]
    assert (
        complete(client, "The capital of France is", max_tokens=1, logit_bias={str(token): 100}).choices[0].text
        == " Rome"
    )


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"temperature": -1}, openai.BadRequestError, "temperature must be"),
        ({"prompt": "hello " * 9000}, openai.BadRequestError, "prompt must have at most"),
        ({"model": "gpt-9"}, openai.NotFoundError, "got 'gpt-9'"),
        ({"extra_body": {"no_such": 1}}, openai.BadRequestError, "unknown field 'no_such'"),
    ],
)
def test_errors_are_the_clients_own(
    client: openai.OpenAI, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        complete(client, **{"prompt": "Hi", **options})


@pytest.mark.parametrize("strategy", ["collocated", "disaggregated"])
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_early_frees_every_block(
    server: ServerProcess, client: openai.OpenAI, strategy: str, stream: bool
) -> None:
    free = {worker: NUM_BLOCKS for worker in ("collocated-0", "prefill-0", "decode-0")}
    server.wait_until(lambda: server.free_blocks() == free, "an idle server")
    options = {"max_tokens": 2000, "extra_body": {"strategy": strategy, "ignore_eos": True}}
    if stream:
        response = complete(client, "Tell me everything.", stream=True, **options)
        for _, _chunk in zip(range(5), response, strict=False):
            pass
        response.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            complete(client, "Tell me everything.", timeout=1.0, **options)
    server.wait_until(lambda: server.get("/health")["num_requests"] == 0, "the end of the request")
    server.wait_until(lambda: server.free_blocks() == free, "every block")


def test_metrics_have_counted(server: ServerProcess, client: openai.OpenAI) -> None:
    chat(client, extra_body={"strategy": "disaggregated"})
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert values["nanopd_handoffs_total"] > 0
    assert values["nanopd_transfer_bytes_total"] > 0
    assert values['nanopd_decisions_total{path="disaggregated"}'] > 0
    assert values['nanopd_time_to_first_token_seconds_count{path="disaggregated"}'] > 0
    assert values["nanopd_inter_token_latency_seconds_count"] > 0
    assert values["nanopd_errors_total"] == 0
