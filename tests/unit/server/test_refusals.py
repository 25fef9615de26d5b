"""What is refused, with which status, and that no worker hears of it."""

from typing import Any

import pytest
from support.fake_server import Server, make_server

from nanopd.config import ServerConfig


def error_of(response: Any) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"max_tokens": "4"}, "max_tokens", "max_tokens must be int or null, got str"),
        ({"max_tokens": 0}, "max_tokens", "at least 1, got 0"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "at least 1, got -1"),
        ({"temperature": -1}, "temperature", "between 0 and 100, got -1"),
        ({"top_p": 0}, "top_p", "in (0, 1]"),
        ({"n": 0}, "n", "between 1 and 16, got 0"),
        ({"n": 17}, "n", "between 1 and 16, got 17"),
        ({"n": 16, "prompt": ["a"] * 64}, "prompt", "at most 1000 choices in all, got 1024"),
        ({"logprobs": 21}, "logprobs", "between 0 and 20"),
        ({"stop": [""]}, "stop", "non-empty"),
        ({"stop": 3}, "stop", "stop must be"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "keys must be token ids"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "[0, 258)"),
        ({"stop_token_ids": [999]}, "stop_token_ids", "[0, 258)"),
        ({"strategy": "both"}, "strategy", "one of collocated, disaggregated, adaptive, got 'both'"),
        ({"slo": {"ttft": 1}}, "slo.ttft", "unknown field 'slo.ttft'"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"prompt": []}, "prompt", "a string, strings, token ids, or lists"),
        ({"prompt": ["a", 1]}, "prompt", "a string, strings, token ids, or lists"),
        ({"prompt": ""}, "prompt", "at least one token"),
        ({"prompt": [258]}, "prompt", "[0, 258), got 258"),
        ({"prompt": [-1]}, "prompt", "[0, 258), got -1"),
        ({"prompt": ["a"] * 257}, "prompt", "at most 256 prompts, got 257"),
        ({"prompt": "a" * 128}, "prompt", "at most 127 tokens, got 128"),
        ({"prompt": ["ok", "a" * 128]}, "prompt", "at most 127 tokens, got 128"),
    ],
)
def test_bad_requests_are_400_and_name_the_field(
    server: Server, fields: dict[str, Any], field: str, words: str
) -> None:
    response = server.complete(**fields)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == field
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert server.controller.live == {}  # of a list of prompts none runs


def test_unknown_fields_are_refused_with_the_valid_ones(server: Server) -> None:
    error = error_of(server.complete(max_token=4))
    assert error["param"] == "max_token"
    assert error["message"].startswith("unknown field 'max_token'; valid fields are ")
    assert "max_tokens" in error["message"]


def test_missing_prompt(server: Server) -> None:
    error = error_of(server.client.post("/v1/completions", json={}))
    assert (error["message"], error["param"]) == ("prompt is required", "prompt")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"metadata": {"a": ' + b"[" * 50_000])
def test_what_is_no_json_object(server: Server, body: bytes) -> None:
    response = server.client.post("/v1/completions", content=body)
    assert response.status_code == 400
    assert "body must be" in error_of(response)["message"]


def test_another_model_is_404(server: Server) -> None:
    response = server.complete(model="gpt-9")
    assert response.status_code == 404
    assert error_of(response) == {
        "message": "model must be 'tiny', got 'gpt-9'",
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_another_path_or_method(server: Server) -> None:
    assert server.client.get("/v1/nothing").status_code == 404
    response = server.client.get("/v1/completions")
    assert response.status_code == 405
    assert "Method Not Allowed" in error_of(response)["message"]


def test_a_long_body_is_413_whether_announced_or_not() -> None:
    server = make_server(config=ServerConfig(max_body_bytes=200))
    assert server.complete().status_code == 200
    response = server.complete(prompt="a" * 200)
    assert response.status_code == 413
    assert "at most 200 bytes" in error_of(response)["message"]
    chunked = server.client.post("/v1/completions", content=iter([b" " * 150, b" " * 150]))
    assert chunked.status_code == 413


def test_a_full_queue_is_429_with_a_time_to_come_back(server: Server) -> None:
    server.controller.capacity = 0
    response = server.complete()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert error_of(response)["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_no_plan_would_keep_is_429(server: Server, stream: bool) -> None:
    server.controller.refusal = "no plan is likely to keep its objectives"
    response = server.complete(stream=stream, slo={"ttft_ms": 1})
    assert response.status_code == 429 and response.headers["retry-after"]
    error = error_of(response)
    assert error["type"] == "rate_limit_error" and error["message"] == server.controller.refusal
    assert server.controller.live == {}


@pytest.mark.parametrize("text", ["ttft=3", "ttft_ms", "priority=high", "300"])
def test_a_header_of_objectives_that_cannot_be_read(server: Server, text: str) -> None:
    body = {"prompt": "abc", "max_tokens": 3}
    response = server.client.post("/v1/completions", json=body, headers={"X-Nanopd-Slo": text})
    assert response.status_code == 400
    assert error_of(response)["param"] == "X-Nanopd-Slo" and text in error_of(response)["message"]


@pytest.mark.parametrize("fields", [{"n": 3}, {"prompt": ["a", "b", "c"]}])
def test_a_queue_that_fills_up_in_the_middle_takes_all_or_none(server: Server, fields: dict[str, Any]) -> None:
    server.controller.capacity = 2
    assert server.complete(**fields).status_code == 429
    assert server.controller.live == {}
    assert len(server.controller.aborted) == 2


def test_api_key() -> None:
    server = make_server(config=ServerConfig(api_key="secret"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        response = server.client.post("/v1/completions", json={"prompt": "a"}, headers=headers)
        assert response.status_code == 401
        assert error_of(response)["code"] == "invalid_api_key"
    assert server.client.get("/v1/models").status_code == 401
    good = {"Authorization": "Bearer secret"}
    assert server.client.post("/v1/completions", json={"prompt": "a"}, headers=good).status_code == 200
    assert server.client.get("/health").status_code == 200
    assert server.client.get("/metrics").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_failure_before_the_first_token_is_500(server: Server, stream: bool) -> None:
    server.controller.fails_at = 0
    response = server.complete(stream=stream)
    assert response.status_code == 500
    assert error_of(response)["message"] == "the decode worker was lost 4 times"


def test_failure_in_a_stream_is_an_event(server: Server) -> None:
    server.controller.fails_at = 3
    lines = server.complete(stream=True).text.split("\n\n")
    assert sum('"text":' in line for line in lines) == 3
    assert "the decode worker was lost 4 times" in lines[3]
    assert lines[4] == "data: [DONE]"


def test_one_failed_choice_fails_the_call_and_frees_the_others(server: Server) -> None:
    server.controller.fails_at = 2
    assert server.complete(n=2).status_code == 500
    assert server.controller.live == {}


def test_a_defect_of_ours_is_500_without_details(server: Server) -> None:
    server.controller.script = lambda request: 1 // 0  # type: ignore[assignment,return-value]
    response = server.complete()
    assert response.status_code == 500
    assert error_of(response)["message"] == "internal error: ZeroDivisionError"
