"""The HTTP application over a fake controller and a tiny tokenizer."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.testclient import TestClient
from support.fake_controller import FakeController
from support.tiny_tokenizer import IM_END, tiny_tokenizer

from nanopd.config import ServerConfig
from nanopd.server.app import build_app


@dataclass
class Server:
    """The application over a fake controller, whose answer to everything is ``says``."""

    controller: FakeController
    client: TestClient

    def complete(self, **fields: Any) -> Any:
        return self.client.post("/v1/completions", json={"model": "tiny", "prompt": "abc", "max_tokens": 100, **fields})

    def chat(self, **fields: Any) -> Any:
        return self.client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}], **fields}
        )


def make_server(says: str = "hello world", config: ServerConfig | None = None) -> Server:
    controller = FakeController(lambda request: [*says.encode(), IM_END])
    app = build_app(controller, tiny_tokenizer(), config or ServerConfig(), "tiny")  # type: ignore[arg-type]
    return Server(controller, TestClient(app, raise_server_exceptions=False))


def events(response: Any) -> list[Any]:
    """The data of a server-sent event stream, [DONE] checked and taken off."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]
