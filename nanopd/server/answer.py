"""Answers an accepted call, whole or streamed. The two APIs differ in their ``Shape`` only."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from nanopd.cluster.events import RequestReport
from nanopd.errors import OverloadedError, RequestFailedError
from nanopd.request import BeamParams, SamplingParams
from nanopd.runtime.completion import Completion, collect_all
from nanopd.runtime.generation import ChoiceDelta, Generation, GenerationOptions, merge, raise_if_failed
from nanopd.server.beam import search_all
from nanopd.server.connection import EventStream, while_connected
from nanopd.server.context import ServerContext
from nanopd.server.errors import error_body, status_of


class Shape(Protocol):
    """How one API writes choices."""

    object_name: str
    chunk_object_name: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """A choice sent before its first tokens, if the API has one."""
        ...

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any] | None:
        """A piece of a choice; None: nothing to show yet."""
        ...

    def whole(self, completion: Completion) -> dict[str, Any]:
        """A finished choice."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One API call, checked: nothing about it can be refused any more but for load and length."""

    request_id: str
    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    options: GenerationOptions
    shape: Shape
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    debug: bool = False
    counts_output: bool = True  # False: max_tokens was 0, the one token sampled is not part of the answer
    beam: BeamParams | None = None  # None: sample

    @property
    def request_ids(self) -> list[str]:
        """Of its prompts."""
        count = len(self.prompts)
        return [self.request_id] if count == 1 else [f"{self.request_id}-p{number}" for number in range(count)]


async def answer(context: ServerContext, http: Request, call: Call) -> Response:
    """Submits every prompt, then answers. Leaving in any way, a disconnect included, aborts what is unfinished."""
    context.check_size(len(call.prompts) * call.n)
    reply = _Reply(context, call)
    if call.beam is not None:
        search = search_all(context.generator, call.prompts, call.request_ids, call.beam, call.sampling, call.options)
        return reply.response(await while_connected(http.receive, search))
    generations = await _submit_all(context, call)
    if call.stream:
        events = reply.events(generations)
        first = await while_connected(http.receive, _first(events))
        return EventStream(first, events, reply.path_header)
    completions = await while_connected(http.receive, collect_all(generations))
    return reply.response([choice for choices in completions for choice in choices])


async def _first(events: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(events)


async def _submit_all(context: ServerContext, call: Call) -> list[Generation]:
    """All prompts or none."""
    generations: list[Generation] = []
    try:
        for number, (prompt, request_id) in enumerate(zip(call.prompts, call.request_ids, strict=True)):
            submitted = context.generator.submit(
                prompt,
                call.sampling,
                n=call.n,
                first_index=number * call.n,
                request_id=request_id,
                options=call.options,
            )
            generations.append(submitted)
    except BaseException:
        for generation in generations:
            generation.abort()
        raise
    return generations


class _Reply:
    """Collects what the envelope around the choices says: usage, path, reports."""

    def __init__(self, context: ServerContext, call: Call) -> None:
        self._context = context
        self._call = call
        self._created = int(time.time())
        self._num_output_tokens = 0
        self._reports: dict[int, RequestReport] = {}
        self.path_header: dict[str, str] = {}

    def response(self, completions: Sequence[Completion]) -> Response:
        body = self._whole(completions)
        return Response(body, media_type="application/json", headers=self.path_header)

    def _whole(self, completions: Sequence[Completion]) -> bytes:
        for completion in completions:
            self._num_output_tokens += len(completion.token_ids)
            self._note_report(completion.index, completion.report)
        self._set_path([report.decision.chosen.path for report in self._reports.values()])
        body = self._envelope(self._call.shape.object_name, [self._choice(completion) for completion in completions])
        body["usage"] = self._usage()
        if self._call.debug:
            body["nanopd"] = self._debug()
        return msgspec.json.encode(body)

    def _choice(self, completion: Completion) -> dict[str, Any]:
        choice = self._call.shape.whole(completion)
        return choice if completion.score is None else {**choice, "score": completion.score}  # of a beam search

    async def events(self, generations: Sequence[Generation]) -> AsyncGenerator[bytes, None]:
        """Server-sent events. An error before the first one is raised (and becomes a status); a later one is an event."""
        is_open = False
        async with AsyncExitStack() as stack:
            for generation in generations:
                await stack.enter_async_context(generation)
            try:
                async for delta in merge(generations):
                    raise_if_failed(delta.finish)
                    if not is_open:
                        is_open = True
                        self._set_path(self._planned_paths(generations))
                        for event in self._opening_events():
                            yield event
                    for event in self._delta_events(delta):
                        yield event
            except (RequestFailedError, OverloadedError) as error:
                if not is_open:
                    raise
                yield _event(error_body(str(error), status_of(error)))
        if self._call.include_usage:
            yield _event({**self._chunk([]), "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _opening_events(self) -> list[bytes]:
        openings = (self._call.shape.opening(index) for index in range(len(self._call.prompts) * self._call.n))
        return [_event(self._chunk([choice])) for choice in openings if choice is not None]

    def _delta_events(self, delta: ChoiceDelta) -> list[bytes]:
        self._num_output_tokens += len(delta.token_ids)
        self._note_report(delta.index, delta.report)
        choice = self._call.shape.chunk(delta)
        if choice is None:
            return []
        chunk = self._chunk([choice])
        if self._call.debug and delta.finish is not None:
            chunk["nanopd"] = self._debug()
        return [_event(chunk)]

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._envelope(self._call.shape.chunk_object_name, choices)
        if self._call.include_usage:
            chunk["usage"] = self._usage() if self._call.continuous_usage else None
        return chunk

    def _envelope(self, object_name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._call.request_id,
            "object": object_name,
            "created": self._created,
            "model": self._context.model_name,
            "choices": choices,
        }

    def _usage(self) -> dict[str, Any]:
        num_prompt = sum(len(prompt) for prompt in self._call.prompts)
        num_output = self._num_output_tokens if self._call.counts_output else 0
        num_cached = sum(_num_cached(report) for index, report in self._reports.items() if index % self._call.n == 0)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
            "prompt_tokens_details": {"cached_tokens": num_cached},
        }

    def _debug(self) -> dict[str, Any]:
        return {"reports": {str(index): msgspec.to_builtins(report) for index, report in sorted(self._reports.items())}}

    def _note_report(self, index: int, report: RequestReport | None) -> None:
        if report is not None:
            self._reports[index] = report

    def _planned_paths(self, generations: Sequence[Generation]) -> list[str]:
        """Where the requests run, before their reports exist."""
        ours = {request_id for generation in generations for request_id in generation.request_ids}
        live = self._context.generator.controller.snapshot().requests
        return [request.decision.chosen.path for request in live if request.request_id in ours]

    def _set_path(self, paths: Sequence[str]) -> None:
        if paths:
            self.path_header = {"X-Nanopd-Path": ",".join(sorted(set(paths)))}


def _num_cached(report: RequestReport) -> int:
    """Prompt tokens whose KV some cache already held."""
    return max(report.prefill.num_cached_tokens, report.decision.num_resident_tokens)


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"
