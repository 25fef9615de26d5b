"""POST /v1/completions"""

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
from nanopd.server.logprobs import CompletionLogprobs, joined
from nanopd.server.objectives import with_header
from nanopd.server.parsing import prepare, read_body, require_neutral
from nanopd.server.protocol import CompletionRequest
from nanopd.server.sampling import generation_options, num_choices, sampling_params
from nanopd.tokenizer import Tokenizer

_DEFAULT_MAX_TOKENS = 16  # as the OpenAI API


class CompletionsEndpoint:
    """Text in, its continuation out."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def post(self, http: Request) -> Response:
        body = await read_body(http, self._context.config.max_body_bytes)
        call = await prepare(body, lambda fields: self._call(with_header(fields, http.headers)), CompletionRequest)
        return await answer(self._context, http, call)

    def _call(self, fields: CompletionRequest) -> Call:
        self._context.check_model(fields.model)
        n = num_choices(fields, self._context.config.max_n)
        require_neutral("best_of", fields.best_of, n)
        require_neutral("suffix", fields.suffix, "")
        tokenizer = self._context.generator.tokenizer
        prompts = self._prompts(fields)
        echo = bool(fields.echo)
        max_tokens = _DEFAULT_MAX_TOKENS if fields.max_tokens is None else fields.max_tokens
        shows_output = (
            max_tokens != 0 or not echo
        )  # scoring a text: echo with max_tokens 0 (one token is sampled, and not shown)
        return Call(
            request_id=f"cmpl-{secrets.token_hex(12)}",
            prompts=[tokens for _text, tokens in prompts],
            sampling=sampling_params(
                fields,
                max_tokens=max_tokens if shows_output else 1,
                logprobs=fields.logprobs,
                prompt_logprobs=fields.logprobs if echo else None,
            ),
            options=generation_options(fields, tenant=fields.user or ""),
            shape=CompletionShape(tokenizer, prompts, n, echo, fields.logprobs is not None, shows_output),
            n=n,
            stream=bool(fields.stream),
            include_usage=fields.stream_options is not None and fields.stream_options.include_usage,
            continuous_usage=fields.stream_options is not None and fields.stream_options.continuous_usage_stats,
            debug=bool(fields.debug),
            beam=beam_params(fields, n),
            counts_output=shows_output,
        )

    def _prompts(self, fields: CompletionRequest) -> list[tuple[str, list[int]]]:
        """(text, token ids) of each prompt."""
        tokenizer = self._context.generator.tokenizer
        prompts: list[tuple[str, list[int]]] = []
        for prompt in split_prompts(fields.prompt):
            if isinstance(prompt, str):
                prompts.append(
                    (prompt, tokenizer.encode(prompt, add_special_tokens=fields.add_special_tokens is not False))
                )
            else:
                prompts.append((tokenizer.decode(prompt, skip_special_tokens=False) if fields.echo else "", prompt))
        if len(prompts) > self._context.config.max_prompts:
            raise InvalidRequestError(
                f"prompt must hold at most {self._context.config.max_prompts} prompts, got {len(prompts)}", "prompt"
            )
        return prompts


def split_prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The four forms of the API: a text, texts, token ids, lists of token ids."""
    if isinstance(prompt, str):
        return [prompt]
    tokens = [item for item in prompt if isinstance(item, int)]
    if tokens and len(tokens) == len(prompt):
        return [tokens]
    prompts = [item for item in prompt if not isinstance(item, int)]
    if not prompts or len({type(item) for item in prompt}) != 1:
        raise InvalidRequestError("prompt must be a string, strings, token ids, or lists of token ids", "prompt")
    return prompts


class CompletionShape:
    """Choices of the completions API. Keeps, per choice, what a stream has shown so far."""

    object_name = chunk_object_name = "text_completion"

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[tuple[str, Sequence[int]]],
        n: int,
        echo: bool,
        logprobs: bool,
        shows_output: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._n = n
        self._echo = echo
        self._shows_output = shows_output
        self._logprobs = [CompletionLogprobs(tokenizer) for _ in range(len(prompts) * n)] if logprobs else None
        self._echoed: set[int] = set()

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any] | None:
        is_first = delta.index not in self._echoed
        self._echoed.add(delta.index)
        text, logprobs = self._piece(delta.index, is_first, delta.text, delta.logprobs, delta.prompt_logprobs)
        if not text and not logprobs and delta.finish_reason is None:
            return None
        return self._choice(delta.index, text, logprobs, delta.finish_reason)

    def whole(self, completion: Completion) -> dict[str, Any]:
        text, logprobs = self._piece(
            completion.index, True, completion.text, completion.logprobs, completion.prompt_logprobs
        )
        return self._choice(completion.index, text, logprobs, completion.finish_reason)

    def _piece(
        self,
        index: int,
        is_first: bool,
        text: str,
        entries: Sequence[TokenLogprobs],
        prompt_entries: Sequence[TokenLogprobs] | None,
    ) -> tuple[str, dict[str, Any] | None]:
        """The text and logprobs of new output, with the prompt's in front where it is echoed."""
        prompt_text, prompt_ids = self._prompts[index // self._n]
        echoes = self._echo and is_first
        shown = (prompt_text if echoes else "") + (text if self._shows_output else "")
        if self._logprobs is None:
            return shown, None
        lists = self._logprobs[index]
        parts = [lists.first_token(prompt_ids[0]), lists.tokens(prompt_entries or ())] if echoes else []
        if self._shows_output and entries:
            parts.append(lists.tokens(entries))
        return shown, joined(*parts) if parts else None

    @staticmethod
    def _choice(index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
