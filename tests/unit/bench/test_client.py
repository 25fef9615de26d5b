"""One exchange against engines of every kind, played by a mock transport."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest

from nanopd.bench.client import Exchange, Target, probe, request_body
from nanopd.bench.sample import Outcome, Sample
from nanopd.errors import RequestFailedError
from nanopd.request import Slo
from nanopd.workload import RequestSpec

SPEC = RequestSpec(0.0, 3, 4, 8, "tenant", Slo(50.0, None))


class Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def exchange(answer: Callable[[httpx.Request], httpx.Response]) -> Sample:
    async def run() -> Sample:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(base_url="http://engine", transport=transport) as client:
            one = Exchange(5, SPEC, time.perf_counter())
            await one.run(client, b"{}")
            return one.sample(one.due - 2.0)

    return asyncio.run(run())


def stream(*events: Any, cut: int | None = None) -> Callable[[httpx.Request], httpx.Response]:
    """Server-sent events in pieces of ``cut`` bytes."""
    data = b"".join(
        b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n" for event in events
    )
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)] if cut else [data]
    return lambda request: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Pieces(pieces))


def piece(text: str, num_tokens: int | None = None, finish: str | None = None) -> dict[str, Any]:
    usage = None if num_tokens is None else {"completion_tokens": num_tokens}
    return {"choices": [{"text": text, "finish_reason": finish}], "usage": usage}


@pytest.mark.parametrize("cut", [None, 1, 7])
def test_the_running_usage_counts_tokens_however_the_bytes_are_cut(cut: int | None) -> None:
    sample = exchange(stream(piece("a", 1), piece("bc", 3), piece("", 4, "length"), b"[DONE]", cut=cut))
    assert (sample.outcome, sample.num_output_tokens, len(sample.token_ms)) == (Outcome.COMPLETED, 4, 4)
    assert sample.token_ms[1] == sample.token_ms[2]  # came together
    assert list(sample.token_ms) == sorted(sample.token_ms)
    assert sample.e2e_ms is not None and sample.e2e_ms >= sample.token_ms[-1]
    assert (sample.index, sample.scheduled_s, sample.ttft_slo_ms) == (5, 2.0, 50.0)


def test_without_running_usage_pieces_count_and_the_sum_corrects_them() -> None:
    final = {"choices": [], "usage": {"completion_tokens": 4}}
    sample = exchange(stream(piece("a"), piece("b"), piece("", None, "stop"), final, b"[DONE]"))
    assert len(sample.token_ms) == 4
    assert sample.token_ms[1] == sample.token_ms[3]  # told late, but they had come


def test_without_any_usage_pieces_are_tokens() -> None:
    sample = exchange(stream(piece("a"), piece("b", None, "stop"), b"[DONE]"))
    assert (sample.outcome, sample.num_output_tokens) == (Outcome.COMPLETED, 2)


def test_a_whole_answer_has_its_length_and_no_token_times() -> None:
    sample = exchange(lambda request: httpx.Response(200, json=piece("abcd", 4, "length")))
    assert (sample.outcome, sample.num_output_tokens, sample.token_ms) == (Outcome.COMPLETED, 4, ())
    assert sample.e2e_ms is not None
    assert sample.ttft_ms is None


@pytest.mark.parametrize(
    ("answer", "outcome", "error"),
    [
        (lambda request: httpx.Response(429, text="queue full"), Outcome.REFUSED, "queue full"),
        (lambda request: httpx.Response(400, text="no"), Outcome.FAILED, "no"),
        (stream(piece("a", 1), b"[DONE]"), Outcome.FAILED, "the answer broke off"),
        (stream(piece("a", 1), {"error": {"message": "worker lost"}}), Outcome.FAILED, "worker lost"),
        (stream(piece("", 1, "abort"), b"[DONE]"), Outcome.FAILED, "the answer broke off"),
        (stream(b"<html>"), Outcome.FAILED, "not a completion"),
    ],
)
def test_every_failure_is_an_outcome_with_its_cause(answer, outcome: Outcome, error: str) -> None:
    sample = exchange(answer)
    assert sample.outcome is outcome
    assert sample.error is not None and error in sample.error
    assert sample.e2e_ms is None


def test_a_connection_that_fails_is_an_outcome() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there")

    sample = exchange(refuse)
    assert sample.outcome is Outcome.FAILED
    assert "nobody there" in (sample.error or "")


def test_the_engines_report_gives_path_and_phases() -> None:
    legs = {"queue_ms": 1.0, "prefill_ms": 20.0, "decode_ms": 30.0}
    report = {
        "decision": {"chosen": {"prefill_worker": "prefill-0", "decode_worker": "decode-0"}},
        "ttft_s": 0.025,
        "prefill": legs,
        "decode": {**legs, "queue_ms": 2.0, "decode_ms": 40.0},
        "transfer_ms": 5.0,
        "transfer_exposed_ms": 0.5,
    }
    last = {**piece("a", 4, "length"), "nanopd": {"reports": {"0": report}}}
    sample = exchange(stream(last, b"[DONE]"))
    assert sample.path == "disaggregated"
    assert sample.phases is not None
    assert (sample.phases.ttft_ms, sample.phases.queue_ms, sample.phases.decode_ms) == (25.0, 3.0, 40.0)


def test_nanopds_own_fields_go_to_nanopd_only() -> None:
    prompt = (1, 2, 3)
    plain, ours = (
        json.loads(request_body(Target("http://engine", "m", is_nanopd), SPEC, prompt, True))
        for is_nanopd in (False, True)
    )
    assert plain["prompt"] == [1, 2, 3]
    assert (plain["max_tokens"], plain["ignore_eos"], plain["stream"]) == (4, True, True)
    assert set(ours) - set(plain) == {"debug", "slo", "priority", "user"}
    assert "stream_options" not in json.loads(request_body(Target("http://engine", "m", False), SPEC, prompt, False))


def test_nobody_there_is_a_sentence() -> None:
    with pytest.raises(RequestFailedError, match="no OpenAI-compatible engine at http://127.0.0.1:1"):
        probe("http://127.0.0.1:1/v1")
