"""A client that goes away frees its requests, whatever it was waiting for. Driven as raw ASGI: that is where a disconnect is seen."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message
from support.fake_server import Server, make_server


async def call(server: Server, fields: dict[str, Any], leave: Callable[[list[Message]], bool]) -> list[Message]:
    """Posts a completion and disconnects as soon as ``leave(messages sent so far)`` holds."""
    sent: list[Message] = []
    body = json.dumps({"prompt": "abc", **fields}).encode()
    requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if requests:
            return requests.pop(0)
        while not leave(sent):
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": ("test", 1),
        "server": ("test", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    await asyncio.wait_for(server.client.app(scope, receive, send), timeout=10)
    return sent


@pytest.mark.parametrize(
    "fields", [{}, {"n": 2}, {"prompt": ["a", "b"], "n": 2}, {"stream": True}, {"stream": True, "n": 3}]
)
def test_leaving_before_the_first_token(fields: dict[str, Any]) -> None:
    server = make_server()
    server.controller.is_held = True

    sent = asyncio.run(call(server, fields, leave=lambda sent: bool(server.controller.live)))

    assert server.controller.live == {}
    assert len(server.controller.aborted) == len(server.controller.submitted) > 0
    assert not any(message.get("status") == 200 for message in sent)


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"prompt": ["a", "b"]}])
def test_leaving_in_the_middle_of_a_stream(fields: dict[str, Any]) -> None:
    server = make_server(says="x" * 90)

    def leave(sent: list[Message]) -> bool:
        num_tokens = sum(b'"text":"x"' in message.get("body", b"") for message in sent)
        if num_tokens >= 3:
            server.controller.is_held = True  # the rest will never come
        return server.controller.is_held

    asyncio.run(call(server, {"stream": True, "max_tokens": 100, **fields}, leave))

    assert server.controller.live == {}
    assert len(server.controller.aborted) == len(server.controller.submitted)


def test_staying_to_the_end_aborts_nothing() -> None:
    server = make_server()
    sent = asyncio.run(call(server, {"max_tokens": 100}, leave=lambda sent: len(sent) == 2))
    assert sent[0]["status"] == 200
    assert server.controller.aborted == {}
