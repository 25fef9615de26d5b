"""Load generators and evaluators against a real server, by the requests they were recorded to send (tests/data/client_requests.json); the answers
are read as they read them. So they go on working, without being installed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.server_process import ServerProcess

pytestmark = pytest.mark.e2e

REQUESTS = json.loads((Path(__file__).parents[1] / "data" / "client_requests.json").read_text())
LM_EVAL, GUIDELLM, AIPERF = (REQUESTS[name] for name in ("lm-eval 0.4.13", "guidellm 0.8.1", "aiperf 0.13.0"))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    options = ("--workers", "1P+1D", "--strategy", "disaggregated", "--dtype", "float32", "--num-blocks", "256")
    with (
        ServerProcess(*options) as server,
        httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client,
    ):
        yield client


def post(client: httpx.Client, path: str, body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: httpx.Client, path: str, body: Any, **headers: str) -> list[Any]:
    """The pieces of a stream; [DONE] checked and taken off."""
    with client.stream("POST", path, json=body, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_lm_eval_scores_continuations(client: httpx.Client) -> None:
    """Paris, Lyon or Rome: by the log-probability of the continuation; and whether it is what greedy decoding would say."""
    body = LM_EVAL["score"]
    context = body["prompt"][0][:-1]
    (paris, paris_greedy), (lyon, _), (rome, _) = score(client, body, len(context))
    assert 0.0 > paris > max(lyon, rome)
    choice = post(client, "/v1/completions", {**body, "prompt": context, "echo": False})["choices"][0]
    (greedy,) = choice["logprobs"]["tokens"]
    (said,) = post(client, "/tokenize", {"prompt": greedy, "add_special_tokens": False})["tokens"]
    prompts = [[*context, said], body["prompt"][1]]
    assert [is_greedy for _, is_greedy in score(client, {**body, "prompt": prompts}, len(context))] == [True, False]
    assert paris_greedy == (said == body["prompt"][0][-1])


def score(client: httpx.Client, body: Any, num_context: int) -> list[tuple[float, bool]]:
    """As lm_eval.models.openai_completions.LocalCompletionsAPI.parse_logprobs does it."""
    found = []
    for choice in sorted(post(client, "/v1/completions", body)["choices"], key=lambda choice: choice["index"]):
        logprobs = choice["logprobs"]
        of_tokens = logprobs["token_logprobs"][num_context:-1]  # without the one new token
        top = logprobs["top_logprobs"][num_context:-1]
        assert len(of_tokens) == len(top) == 1
        is_greedy = all(one == max(best.values()) for one, best in zip(of_tokens, top, strict=True))
        found.append((sum(of_tokens), is_greedy))
    return found


def test_lm_eval_generates_until(client: httpx.Client) -> None:
    choices = post(client, "/v1/completions", LM_EVAL["generate"])["choices"]
    assert len(choices) == len(LM_EVAL["generate"]["prompt"])
    assert all(choice["text"].strip() and "." not in choice["text"] for choice in choices)


def test_lm_eval_uses_the_servers_tokenizer(client: httpx.Client) -> None:
    info = client.get("/tokenizer_info").json()
    assert "{%" in info["chat_template"]
    assert info["pad_token"]
    (eos,) = post(client, "/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False})["tokens"]
    assert post(client, "/detokenize", {"tokens": [eos]})["prompt"] == info["eos_token"]


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_guidellm_counts_tokens_as_they_come(client: httpx.Client, kind: str) -> None:
    assert client.get("/health").status_code == 200  # how it finds out that the server is there
    path = "/v1/chat/completions" if kind == "chat" else "/v1/completions"
    body = GUIDELLM[kind]
    pieces = stream(client, path, body)
    counts = [piece["usage"]["completion_tokens"] for piece in pieces]
    wanted = body.get("max_tokens") or body["max_completion_tokens"]
    assert counts == sorted(counts)
    assert counts[-1] == wanted  # ignore_eos
    assert len(set(counts)) > wanted // 2  # not all at once
    assert any(piece["choices"][0].get("delta", piece["choices"][0]) for piece in pieces if piece["choices"])


def test_aiperf_streams_and_reads_the_metrics(client: httpx.Client) -> None:
    assert client.head("/metrics").status_code == 200
    body = AIPERF["chat"]
    pieces = stream(client, "/v1/chat/completions", body, **{"x-request-id": "a", "x-correlation-id": "b"})
    assert pieces[-1]["choices"] == []
    assert pieces[-1]["usage"]["completion_tokens"] == body["max_completion_tokens"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]][-1] == "length"
    assert "nanopd_output_tokens_total" in client.get("/metrics").text
