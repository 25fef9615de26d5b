"""The endpoints around generation: models, health, metrics, version, tokenizer."""

from collections import Counter
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from nanopd.errors import InvalidRequestError, UnknownModelError
from nanopd.server.chat import plain_messages
from nanopd.server.context import ServerContext
from nanopd.server.parsing import parse, read_body
from nanopd.server.prometheus import CONTENT_TYPE, ServerMetrics
from nanopd.server.protocol import DetokenizeRequest, TokenizeRequest


class AdminEndpoints:
    """Reads state; changes nothing."""

    def __init__(self, context: ServerContext, metrics: ServerMetrics, version: str) -> None:
        self._version = version
        self._context = context
        self._metrics = metrics

    async def models(self, http: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_card()]})

    async def model(self, http: Request) -> Response:
        name = http.path_params["name"]
        if name != self._context.model_name:
            raise UnknownModelError(f"model must be {self._context.model_name!r}, got {name!r}", "model")
        return JSONResponse(self._model_card())

    def _model_card(self) -> dict[str, Any]:
        return {
            "id": self._context.model_name,
            "object": "model",
            "created": self._context.started_at,
            "owned_by": "nanopd",
            "max_model_len": self._context.generator.controller.max_model_len,
        }

    async def health(self, http: Request) -> Response:
        """200 when every role of the topology has a worker that serves, else 503; either way with the detail."""
        snapshot = self._context.generator.controller.snapshot()
        serving = Counter(worker.role for worker in snapshot.workers if worker.ready)
        missing = sorted({worker.role for worker in snapshot.workers} - serving.keys())
        detail = {
            "status": "ok" if not missing and serving else "degraded",
            "roles_without_worker": missing,
            "num_requests": len(snapshot.requests),
            "workers": [msgspec.to_builtins(worker) for worker in snapshot.workers],
        }
        return JSONResponse(detail, 200 if detail["status"] == "ok" else 503)

    async def metrics(self, http: Request) -> Response:
        return PlainTextResponse(self._metrics.render(), media_type=CONTENT_TYPE)

    async def version(self, http: Request) -> Response:
        return JSONResponse({"version": self._version})

    async def tokenize(self, http: Request) -> Response:
        fields = parse(await read_body(http, self._context.config.max_body_bytes), TokenizeRequest)
        self._context.check_model(fields.model)
        tokenizer = self._context.generator.tokenizer
        if (fields.prompt is None) == (fields.messages is None):
            raise InvalidRequestError("exactly one of prompt and messages is required", "prompt")
        if fields.prompt is not None:
            tokens = tokenizer.encode(fields.prompt, add_special_tokens=fields.add_special_tokens)
        else:
            tokens = tokenizer.encode_chat(plain_messages(fields.messages or []), fields.add_generation_prompt)
        return JSONResponse(
            {"tokens": tokens, "count": len(tokens), "max_model_len": self._context.generator.controller.max_model_len}
        )

    async def tokenizer_info(self, http: Request) -> Response:
        """Special tokens and chat template: with ``/tokenize`` a client needs no tokenizer of its own."""
        return JSONResponse(self._context.generator.tokenizer.config)

    async def detokenize(self, http: Request) -> Response:
        fields = parse(await read_body(http, self._context.config.max_body_bytes), DetokenizeRequest)
        self._context.check_model(fields.model)
        tokenizer = self._context.generator.tokenizer
        wrong = next((token for token in fields.tokens if not 0 <= token < tokenizer.vocab_size), None)
        if wrong is not None:
            raise InvalidRequestError(f"tokens must be in [0, {tokenizer.vocab_size}), got {wrong}", "tokens")
        return JSONResponse({"prompt": tokenizer.decode(fields.tokens, skip_special_tokens=False)})
