"""POST /v1/chat/completions"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nanopd.errors import InvalidRequestError
from nanopd.request import TokenLogprobs
from nanopd.runtime.completion import Completion
from nanopd.runtime.generation import ChoiceDelta
from nanopd.server.answer import Call, answer
from nanopd.server.beam import beam_params
from nanopd.server.context import ServerContext
from nanopd.server.logprobs import chat_logprobs
from nanopd.server.objectives import with_header
from nanopd.server.parsing import prepare, read_body, require_neutral
from nanopd.server.protocol import ChatRequest
from nanopd.server.sampling import generation_options, num_choices, sampling_params
from nanopd.tokenizer import Tokenizer


class ChatEndpoint:
    """Messages in, the assistant's message out."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def post(self, http: Request) -> Response:
        body = await read_body(http, self._context.config.max_body_bytes)
        call = await prepare(body, lambda fields: self._call(with_header(fields, http.headers)), ChatRequest)
        return await answer(self._context, http, call)

    def _call(self, fields: ChatRequest) -> Call:
        self._context.check_model(fields.model)
        require_neutral("response_format", fields.response_format, {"type": "text"})
        require_neutral("tools", fields.tools, [])
        require_neutral("tool_choice", fields.tool_choice, "none", "auto")
        require_neutral("modalities", fields.modalities, ["text"])
        if fields.top_logprobs and not fields.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs to be true", "top_logprobs")
        n = num_choices(fields, self._context.config.max_n)
        tokenizer = self._context.generator.tokenizer
        messages = plain_messages(fields.messages)
        prompt = tokenizer.encode_chat(messages, fields.add_generation_prompt is not False, fields.chat_template_kwargs)
        limit = fields.max_completion_tokens if fields.max_completion_tokens is not None else fields.max_tokens
        return Call(
            request_id=f"chatcmpl-{secrets.token_hex(12)}",
            prompts=[prompt],
            sampling=sampling_params(
                fields, max_tokens=limit, logprobs=(fields.top_logprobs or 0) if fields.logprobs else None
            ),
            options=generation_options(fields, tenant=fields.user or _system_prompt_key(messages)),
            shape=ChatShape(tokenizer, bool(fields.logprobs)),
            n=n,
            stream=bool(fields.stream),
            include_usage=fields.stream_options is not None and fields.stream_options.include_usage,
            continuous_usage=fields.stream_options is not None and fields.stream_options.continuous_usage_stats,
            debug=bool(fields.debug),
            beam=beam_params(fields, n),
        )


def plain_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with their content as one string. Raises InvalidRequestError naming the message."""
    if not messages:
        raise InvalidRequestError("messages must hold at least one message, got none", "messages")
    return [{**message, "content": _content(message, f"messages[{i}]")} for i, message in enumerate(messages)]


def _content(message: dict[str, Any], where: str) -> str:
    if not isinstance(message.get("role"), str):
        raise InvalidRequestError(f"{where}.role must be a string, got {message.get('role')!r}", f"{where}.role")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant":
        return ""
    if not isinstance(content, list):
        raise InvalidRequestError(
            f"{where}.content must be a string or a list of text parts, got {content!r}", f"{where}.content"
        )
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise InvalidRequestError(f"{where}.content parts must be of type text, got {kind!r}", f"{where}.content")
    return "".join(part["text"] for part in content)


def _system_prompt_key(messages: Sequence[dict[str, Any]]) -> str:
    """Requests with one system prompt tend to have answers of one length: the predictor's class."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    return hashlib.blake2b(system.encode(), digest_size=8).hexdigest() if system else ""


class ChatShape:
    """Choices of the chat API."""

    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._with_logprobs = logprobs

    def opening(self, index: int) -> dict[str, Any] | None:
        return self._piece(index, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any] | None:
        logprobs = self._logprobs(delta.logprobs) if delta.logprobs else None
        if not delta.text and logprobs is None and delta.finish_reason is None:
            return None
        return self._piece(delta.index, {"content": delta.text} if delta.text else {}, logprobs, delta.finish_reason)

    def whole(self, completion: Completion) -> dict[str, Any]:
        return {
            "index": completion.index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": self._logprobs(completion.logprobs),
            "finish_reason": completion.finish_reason,
        }

    def _logprobs(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, entries) if self._with_logprobs else None

    @staticmethod
    def _piece(
        index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
