from typing import Any

import pytest
from support.fake_server import Server, events


def test_message_and_usage(server: Server) -> None:
    body = server.chat().json()
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hello world", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert body["usage"]["completion_tokens"] == 12


def test_the_template_makes_the_prompt(server: Server) -> None:
    server.chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ]
    )
    (request,) = server.controller.submitted
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert request.prompt_token_ids == tuple(
        server.client.post("/tokenize", json={"prompt": expected}).json()["tokens"]
    )


def test_stream_opens_with_the_role_and_ends_with_the_reason(server: Server) -> None:
    chunks = events(server.chat(stream=True, stream_options={"include_usage": True}))
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "hello world"
    assert choices[-1]["delta"] == {}
    assert choices[-1]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)


def test_stream_of_n_opens_each(server: Server) -> None:
    chunks = events(server.chat(stream=True, n=2))
    openings = [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["delta"].get("role")]
    assert openings == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server: Server, stream: bool) -> None:
    response = server.chat(logprobs=True, top_logprobs=1, max_completion_tokens=2, stream=stream)
    choices = [c["choices"][0] for c in events(response)] if stream else response.json()["choices"]
    content = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert content == [
        {
            "token": "h",
            "logprob": -1.5,
            "bytes": [104],
            "top_logprobs": [{"token": "g", "logprob": -2.0, "bytes": [103]}],
        },
        {
            "token": "e",
            "logprob": -1.5,
            "bytes": [101],
            "top_logprobs": [{"token": "d", "logprob": -2.0, "bytes": [100]}],
        },
    ]


def test_without_a_bound_the_context_is_the_bound(server: Server) -> None:
    server.chat()
    (request,) = server.controller.submitted
    assert request.sampling.max_tokens == server.controller.max_model_len - len(request.prompt_token_ids)


def test_max_completion_tokens_wins_over_max_tokens(server: Server) -> None:
    assert server.chat(max_tokens=9, max_completion_tokens=2).json()["choices"][0]["message"]["content"] == "he"


def test_requests_with_one_system_prompt_share_a_tenant(server: Server) -> None:
    system = {"role": "system", "content": "Be brief."}
    for text in ("a", "b"):
        server.chat(messages=[system, {"role": "user", "content": text}])
    server.chat()
    first, second, without = (request.tenant for request in server.controller.submitted)
    assert first == second != without


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": "Hi"}, "messages", "must be array"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "messages[0].role must be a string"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "string or a list of text parts"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "of type text, got 'image_url'",
        ),
        ({"messages": [{"role": "forbidden", "content": ""}]}, "messages", "no such role"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs", "between 0 and 20"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ],
)
def test_bad_requests(server: Server, fields: dict[str, Any], field: str, words: str) -> None:
    response = server.chat(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert words in response.json()["error"]["message"]
    assert server.controller.submitted == []


def test_harmless_fields_of_openai_clients_are_accepted(server: Server) -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "parallel_tool_calls": True,
        "reasoning_effort": "low",
    }
    assert server.chat(**harmless).status_code == 200
