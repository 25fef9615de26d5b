"""Beam search over HTTP: ``use_beam_search`` with ``n`` beams."""

from typing import Any

import pytest
from support.fake_server import Server

from nanopd.request import BeamParams, Strategy


def test_the_choices_are_the_hypotheses_best_first(server: Server) -> None:
    response = server.complete(use_beam_search=True, n=3, temperature=0)
    assert response.status_code == 200
    body = response.json()
    assert [(choice["index"], choice["text"], choice["score"]) for choice in body["choices"]] == [
        (0, "h", -1.0),
        (1, "he", -2.0),
        (2, "hel", -3.0),
    ]
    assert body["usage"]["completion_tokens"] == 6
    (request,) = server.controller.submitted
    assert request.beam == BeamParams(3) and request.strategy is Strategy.COLLOCATED
    assert body["id"] == request.request_id


def test_choices_are_numbered_on_from_prompt_to_prompt(server: Server) -> None:
    choices = server.complete(prompt=["abc", "de"], use_beam_search=True, n=2, echo=True).json()["choices"]
    assert [(choice["index"], choice["text"]) for choice in choices] == [
        (0, "abch"),
        (1, "abche"),
        (2, "deh"),
        (3, "dehe"),
    ]


def test_chat(server: Server) -> None:
    rules = {"length_penalty": 0.5, "early_stopping": True, "logprobs": False, "stream": False, "debug": True}
    body = server.chat(use_beam_search=True, n=2, **rules).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["h", "he"]
    assert body["nanopd"]["reports"].keys() == {"0", "1"}
    assert server.controller.submitted[0].beam == BeamParams(2, 0.5, "first")


def test_one_beam_is_the_default(server: Server) -> None:
    assert len(server.complete(use_beam_search=True).json()["choices"]) == 1


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"stream": True}, "stream", "stream does not go with use_beam_search, got True"),
        ({"logprobs": 0}, "logprobs", "logprobs does not go with use_beam_search, got 0"),
        ({"temperature": 0.5}, "temperature", "temperature does not go with use_beam_search, got 0.5"),
        ({"stop": ["x"]}, "stop", "stop does not go with use_beam_search, got ['x']"),
        ({"n": 21}, "n", "n must be between 1 and 16, got 21"),
        ({"strategy": "disaggregated"}, "strategy", "strategy must be collocated for beam search"),
        ({"early_stopping": "soon"}, "early_stopping", "early_stopping must be one of heuristic, first, never, got 'soon'"),
        ({"use_beam_search": False, "length_penalty": 1.0}, "length_penalty", "length_penalty needs use_beam_search to be true"),
    ],
)  # fmt: skip
def test_what_a_search_cannot_do_is_refused(server: Server, fields: dict[str, Any], param: str, sentence: str) -> None:
    response = server.complete(**{"use_beam_search": True, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param and sentence in response.json()["error"]["message"]
    assert server.controller.live == {}


def test_one_prompt_that_is_refused_ends_the_others(server: Server) -> None:
    server.controller.is_held = True
    response = server.complete(prompt=["abc", "d" * 500], use_beam_search=True)
    assert response.status_code == 400
    assert server.controller.live == {}
