from typing import Any

import pytest
from support.fake_server import Server, events, make_server


def test_text_and_usage(server: Server) -> None:
    body = server.complete().json()
    assert body["object"] == "text_completion"
    assert body["model"] == "tiny"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": "hello world", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 12,  # the end token counts
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_max_tokens_bounds_the_text_and_defaults_to_16(server: Server) -> None:
    assert server.complete(max_tokens=4).json()["choices"][0] == {
        "index": 0,
        "text": "hell",
        "logprobs": None,
        "finish_reason": "length",
    }
    server.client.post("/v1/completions", json={"prompt": "abc"})
    assert server.controller.submitted[-1].sampling.max_tokens == 16


def test_stream_is_the_text_in_pieces(server: Server) -> None:
    chunks = events(server.complete(stream=True))
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == "hello world"
    assert [choice["finish_reason"] for choice in choices] == [None] * 11 + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_stream_with_usage_ends_with_it(server: Server) -> None:
    chunks = events(server.complete(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 15
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_stream_with_continuous_usage_counts_along(server: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(server.complete(stream=True, stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:3]] == [1, 2, 3]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("stop", "text"), [("world", "hello "), (["zzz", "o w"], "hell"), ([], "hello world")])
def test_stop(server: Server, stream: bool, stop: Any, text: str) -> None:
    response = server.complete(stop=stop, stream=stream)
    choices = [c["choices"][0] for c in events(response)] if stream else response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == text
    assert choices[-1]["finish_reason"] == "stop"
    if stop:
        assert [str(reason) for reason in server.controller.aborted.values()] == ["stop"]  # the worker stops too


def test_stop_string_in_the_output(server: Server) -> None:
    assert server.complete(stop=["lo"], include_stop_str_in_output=True).json()["choices"][0]["text"] == "hello"


def test_n_choices_have_seeds_of_their_own(server: Server) -> None:
    body = server.complete(n=3, seed=5).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == 3  # one prompt, however many choices
    assert body["usage"]["completion_tokens"] == 36
    seeds = [request.sampling.seed for request in server.controller.submitted]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    server.complete(n=3, seed=5)
    assert [request.sampling.seed for request in server.controller.submitted[3:]] == seeds


def test_stream_of_n_choices_keeps_them_apart(server: Server) -> None:
    texts = ["", ""]
    for chunk in events(server.complete(n=2, stream=True)):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == ["hello world"] * 2


@pytest.mark.parametrize(
    ("prompt", "token_ids"),
    [
        ("ab", [(97, 98)]),
        (["a", "bc"], [(97,), (98, 99)]),
        ([97, 98], [(97, 98)]),
        ([[97], [98, 99]], [(97,), (98, 99)]),
    ],
)
def test_the_four_forms_of_prompt(server: Server, prompt: Any, token_ids: list[tuple[int, ...]]) -> None:
    body = server.complete(prompt=prompt).json()
    assert [request.prompt_token_ids for request in server.controller.submitted] == token_ids
    assert [choice["index"] for choice in body["choices"]] == list(range(len(token_ids)))
    assert body["usage"]["prompt_tokens"] == sum(len(ids) for ids in token_ids)


def test_list_of_prompts_times_n_is_numbered_prompt_by_prompt(server: Server) -> None:
    body = server.complete(prompt=["a", "b"], n=2, echo=True, max_tokens=1).json()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [
        (0, "ah"),
        (1, "ah"),
        (2, "bh"),
        (3, "bh"),
    ]


def test_logprobs(server: Server) -> None:
    logprobs = server.complete(logprobs=1, max_tokens=2).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["h", "e"],
        "token_logprobs": [-1.5, -1.5],
        "top_logprobs": [{"g": -2.0, "h": -1.5}, {"d": -2.0, "e": -1.5}],
        "text_offset": [0, 1],
    }


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_scores_the_prompt_too(server: Server, stream: bool) -> None:
    response = server.complete(echo=True, logprobs=0, max_tokens=2, stream=stream)
    choices = [c["choices"][0] for c in events(response)] if stream else response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == "abche"
    lists = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    joined = {name: [value for part in lists for value in part[name]] for name in lists[0]}
    assert joined == {
        "tokens": ["a", "b", "c", "h", "e"],
        "token_logprobs": [None, -1.5, -1.5, -1.5, -1.5],
        "top_logprobs": [None, {"b": -1.5}, {"c": -1.5}, {"h": -1.5}, {"e": -1.5}],
        "text_offset": [0, 1, 2, 3, 4],
    }


def test_echo_with_max_tokens_0_scores_only_the_prompt(server: Server) -> None:
    body = server.complete(prompt=[97, 98], echo=True, logprobs=0, max_tokens=0).json()
    assert body["choices"][0]["text"] == "ab"
    assert body["choices"][0]["logprobs"]["tokens"] == ["a", "b"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0


def test_every_sampling_field_reaches_the_request(server: Server) -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "min_tokens": 2,
        "ignore_eos": True,
        "seed": 9,
    }
    slo = {"ttft_ms": 100, "tpot_ms": 20}
    more = {
        "logit_bias": {"104": -5},
        "stop_token_ids": [1],
        "priority": -3,
        "strategy": "collocated",
        "slo": slo,
        "user": "me",
    }
    assert server.complete(**fields, **more).status_code == 200
    (request,) = server.controller.submitted
    assert {name: getattr(request.sampling, name) for name in fields} == fields
    assert (request.sampling.logit_bias, request.sampling.stop_token_ids) == ({104: -5}, (1,))
    assert (request.priority, request.strategy, request.tenant) == (-3, "collocated", "me")
    assert (request.slo.ttft_ms, request.slo.tpot_ms) == (100, 20)


def test_objectives_by_header_where_the_body_has_none(server: Server) -> None:
    headers = {"X-Nanopd-Slo": "ttft_ms=300, tpot_ms=20.5, priority=-2"}
    body = {"prompt": "abc", "max_tokens": 3}
    assert server.client.post("/v1/completions", json=body, headers=headers).status_code == 200
    messages = {"messages": [{"role": "user", "content": "Hi"}], "slo": {"ttft_ms": 100}}
    assert server.client.post("/v1/chat/completions", json=messages, headers=headers).status_code == 200
    first, second = server.controller.submitted
    assert (first.slo.ttft_ms, first.slo.tpot_ms, first.priority) == (300.0, 20.5, -2)
    assert (second.slo.ttft_ms, second.slo.tpot_ms, second.priority) == (100, None, -2)


def test_null_means_default(server: Server) -> None:
    nulls = dict.fromkeys(
        ("temperature", "top_p", "n", "stop", "seed", "logit_bias", "logprobs", "echo", "stream", "top_k", "slo")
    )
    assert server.complete(**nulls).json()["choices"][0]["text"] == "hello world"


def test_the_path_is_a_header_and_the_report_is_there_when_asked_for(server: Server) -> None:
    plain, debug = server.complete(), server.complete(debug=True)
    assert plain.headers["x-nanopd-path"] == "disaggregated"
    assert "nanopd" not in plain.json()
    report = debug.json()["nanopd"]["reports"]["0"]
    assert report["decision"]["reason"] == "the prompt is long"
    assert report["ttft_s"] == 0.5
    streamed = server.complete(stream=True, debug=True)
    assert streamed.headers["x-nanopd-path"] == "disaggregated"
    assert events(streamed)[-1]["nanopd"]["reports"]["0"] == report


def test_text_in_any_language_arrives_whole() -> None:
    text = "naïve 🙂 日本語"
    chunks = events(make_server(says=text).complete(stream=True))
    pieces = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_long_body_is_prepared_elsewhere_with_the_same_answer() -> None:
    server = make_server()
    server.controller.max_model_len = 100_000
    long = server.complete(prompt="a" * 20_000, echo=True, max_tokens=3).json()
    assert long["choices"][0]["text"] == "a" * 20_000 + "hel"
    assert server.complete(prompt="a" * 20_000, temperature=-1).json()["error"]["param"] == "temperature"
