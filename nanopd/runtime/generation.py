"""One prompt, n choices: from token ids to streams of text. What the HTTP server and ``LLM`` have in common."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from nanopd.cluster.events import FinishRequest, RequestReport
from nanopd.errors import OverloadedError, RequestFailedError
from nanopd.request import FinishReason, Request, SamplingParams, Slo, Strategy, TokenLogprobs
from nanopd.tokenizer import OutputProcessor, Tokenizer

if TYPE_CHECKING:
    from nanopd.runtime.controller import Controller


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What a caller may say about a prompt beside how to sample."""

    priority: int = 0  # lower runs first
    slo: Slo = Slo()
    tenant: str = ""
    strategy: Strategy | None = None  # None: the cluster's
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What is new in one choice. The last delta of a choice has ``finish_reason`` and ``finish``."""

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None  # with the first delta, when asked for
    finish_reason: FinishReason | None = None
    stop_string: str | None = None
    finish: FinishRequest | None = None

    @property
    def report(self) -> RequestReport | None:
        """Where the time went, with the last delta."""
        return self.finish.report if self.finish else None


class Generation:
    """The choices of one prompt as they come: iterate over it inside ``async with``; leaving the block aborts what is unfinished."""

    def __init__(
        self,
        controller: "Controller",
        requests: Sequence[Request],
        processors: Sequence[OutputProcessor],
        first_index: int = 0,
    ) -> None:
        self._controller = controller
        self.request_ids = tuple(request.request_id for request in requests)
        self._unfinished = list(self.request_ids)
        self._choices: list[AsyncIterator[ChoiceDelta]] = []
        try:
            for index, (request, processor) in enumerate(zip(requests, processors, strict=True), first_index):
                self._choices.append(self._choice(index, request, processor))
        except BaseException:  # the queue bound was reached in the middle: all or none
            self.abort()
            raise

    def _choice(self, index: int, request: Request, processor: OutputProcessor) -> AsyncIterator[ChoiceDelta]:
        """Submits now (errors are the caller's), iterates later."""
        stream = self._controller.submit(request)

        async def deltas() -> AsyncIterator[ChoiceDelta]:
            async for delta in stream:
                if processor.is_stopped:
                    continue  # tokens that were under way when the stop string was found
                output = processor.push(delta.token_ids, delta.logprobs)
                if processor.is_stopped:
                    self._controller.abort(request.request_id, FinishReason.STOP)
                yield ChoiceDelta(index, output.text, output.token_ids, output.logprobs, delta.prompt_logprobs)
            assert stream.finish is not None
            self._unfinished.remove(request.request_id)
            reason = FinishReason.STOP if processor.is_stopped else stream.finish.reason
            yield ChoiceDelta(index, processor.finish(), (), (), None, reason, processor.stop_string, stream.finish)

        return deltas()

    def __aiter__(self) -> AsyncIterator[ChoiceDelta]:
        return merge(self._choices)

    async def __aenter__(self) -> "Generation":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def abort(self) -> None:
        """Ends every unfinished choice; safe to call more than once."""
        for request_id in self._unfinished:
            self._controller.abort(request_id)


class Generator:
    """Turns prompts into ``Generation``s on one controller."""

    def __init__(self, controller: "Controller", tokenizer: Tokenizer) -> None:
        self.controller = controller
        self.tokenizer = tokenizer
        eos = (*controller.model_config.eos_token_ids, tokenizer.eos_token_id)
        self.eos_token_ids = tuple(dict.fromkeys(token for token in eos if token is not None))

    def submit(
        self,
        prompt_token_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        n: int = 1,
        first_index: int = 0,
        request_id: str | None = None,
        options: GenerationOptions | None = None,
    ) -> Generation:
        """Queues ``n`` choices of one prompt, numbered from ``first_index``.

        Raises InvalidRequestError (PromptTooLongError) and OverloadedError before anything runs.
        """
        options = options or GenerationOptions()
        request_id = request_id or secrets.token_hex(8)
        requests = [
            Request(
                request_id=request_id if n == 1 else f"{request_id}-{index}",
                prompt_token_ids=tuple(prompt_token_ids),
                sampling=_of_choice(sampling, index),
                priority=options.priority,
                slo=options.slo,
                tenant=options.tenant,
                strategy=options.strategy,
                eos_token_ids=self.eos_token_ids,
            )
            for index in range(n)
        ]
        processors = [
            OutputProcessor(
                self.tokenizer,
                request,
                skip_special_tokens=options.skip_special_tokens,
                include_stop_str_in_output=options.include_stop_str_in_output,
            )
            for request in requests
        ]
        return Generation(self.controller, requests, processors, first_index)


def raise_if_failed(finish: FinishRequest | None) -> None:
    """Raises RequestFailedError if a choice ended in an error, OverloadedError if it was refused."""
    if finish is not None and finish.reason is FinishReason.REFUSED:
        raise OverloadedError(finish.error or "the request was refused")
    if finish is not None and finish.reason is FinishReason.ERROR:
        raise RequestFailedError(finish.error or "the request failed")


def _of_choice(sampling: SamplingParams, index: int) -> SamplingParams:
    """Choice 0 samples as a single choice would; the others have seeds of their own (an open seed is drawn for each on acceptance)."""
    if index == 0 or sampling.seed is None:
        return sampling
    seed = int.from_bytes(hashlib.blake2b(f"{sampling.seed}/{index}".encode(), digest_size=8).digest(), "little")
    return replace(sampling, seed=seed)


async def merge(choices: Sequence[AsyncIterable[ChoiceDelta]]) -> AsyncIterator[ChoiceDelta]:
    """Deltas of all choices (or generations) in the order they come."""
    if len(choices) == 1:  # the common case needs no tasks
        async for only in choices[0]:
            yield only
        return
    queue: asyncio.Queue[ChoiceDelta | BaseException | None] = asyncio.Queue()

    async def pump(choice: AsyncIterable[ChoiceDelta]) -> None:
        try:
            async for delta in choice:
                queue.put_nowait(delta)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(choice)) for choice in choices]
    try:
        num_open = len(tasks)
        while num_open:
            match await queue.get():
                case None:
                    num_open -= 1
                case BaseException() as error:
                    raise error
                case delta:
                    yield delta
    finally:
        for task in tasks:
            task.cancel()
