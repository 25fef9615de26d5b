"""nanopd as a library: ``LLM`` for scripts, ``AsyncLLM`` for programs that stream."""

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from nanopd.cluster.events import RequestReport
from nanopd.config.options import build_configs
from nanopd.errors import InvalidRequestError
from nanopd.request import FinishReason, SamplingParams, Strategy, TokenLogprobs
from nanopd.runtime.completion import Completion, collect_all
from nanopd.runtime.controller import Controller
from nanopd.runtime.generation import ChoiceDelta, GenerationOptions, Generator, raise_if_failed
from nanopd.runtime.launcher import InProcessLauncher, Launcher, LocalProcessLauncher
from nanopd.tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")
Prompt = str | Sequence[int]  # a text, or token ids
Messages = Sequence[Mapping[str, Any]]  # one conversation: {"role": ..., "content": ...}


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one prompt came to. The properties speak of the first choice, mostly the only one."""

    prompt: str | None  # None: token ids were given
    prompt_token_ids: tuple[int, ...]
    choices: tuple[Completion, ...]

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.choices[0].token_ids

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        return self.choices[0].logprobs

    @property
    def finish_reason(self) -> FinishReason:
        return self.choices[0].finish_reason

    @property
    def report(self) -> RequestReport | None:
        """The path taken, why, and where the time went."""
        return self.choices[0].report


class AsyncLLM:
    """A model served by workers of its own, for use inside an event loop.

    ::

        async with AsyncLLM(workers="1P+1D") as llm:
            async for delta in llm.stream("Once upon a time", SamplingParams(max_tokens=64)):
                print(delta.text, end="")
    """

    def __init__(
        self,
        model: str = "smollm2-135m-instruct",
        workers: str = "1C",
        strategy: Strategy | str = Strategy.ADAPTIVE,
        *,
        launcher: Launcher | None = None,
        **options: Any,
    ) -> None:
        """``options`` are fields of EngineConfig, CacheConfig, SchedulerConfig and ClusterConfig.

        ``launcher`` None: one worker runs as a thread of this process, several run as processes. Raises ConfigError, UnknownModelError.
        """
        engine, cluster = build_configs({"model": model, "workers": workers, "strategy": strategy, **options})
        if launcher is None:
            launcher = InProcessLauncher() if cluster.topology.num_workers == 1 else LocalProcessLauncher()
        self.tokenizer: Tokenizer = load_tokenizer(engine)
        self.controller = Controller(engine, cluster, launcher=launcher)
        self._generator = Generator(self.controller, self.tokenizer)
        self._max_in_flight = cluster.max_queued_requests

    async def start(self) -> None:
        """Starts the workers. Raises WorkerError with the worker's own words if one cannot."""
        await self.controller.start()

    async def close(self) -> None:
        """Aborts what is unfinished and ends the workers; leaves no process and no shared memory behind."""
        await self.controller.stop()

    async def __aenter__(self) -> "AsyncLLM":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> AsyncGenerator[ChoiceDelta, None]:
        """New text and tokens of each choice as they come. Leaving the loop early aborts the rest.

        Raises InvalidRequestError, OverloadedError, RequestFailedError.
        """
        generation = self._generator.submit(self._encode(prompt), sampling or SamplingParams(), n=n, options=options)
        async with generation:
            async for delta in generation:
                raise_if_failed(delta.finish)
                yield delta

    def stream_chat(
        self,
        messages: Messages,
        sampling: SamplingParams | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> AsyncGenerator[ChoiceDelta, None]:
        """``stream`` for a conversation; answers of any length unless ``sampling`` bounds them."""
        return self.stream(
            self.tokenizer.encode_chat(messages), sampling or SamplingParams(max_tokens=None), n=n, options=options
        )

    async def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> list[RequestOutput]:
        """The outputs of all prompts, in order. ``sampling`` is for all, or one for each.

        Raises InvalidRequestError, and RequestFailedError as soon as one prompt fails; the others are aborted then.
        """
        batch = _prompts(prompts)
        each = (
            [sampling or SamplingParams()] * len(batch)
            if sampling is None or isinstance(sampling, SamplingParams)
            else sampling
        )
        if len(each) != len(batch):
            raise InvalidRequestError(
                f"sampling must be one, or one for each of {len(batch)} prompts, got {len(each)}", "sampling"
            )
        free_places = asyncio.Semaphore(
            max(1, self._max_in_flight // n)
        )  # a batch of any size waits here instead of being refused

        async def one(prompt: Prompt, params: SamplingParams) -> RequestOutput:
            token_ids = self._encode(prompt)
            async with free_places:
                (choices,) = await collect_all([self._generator.submit(token_ids, params, n=n, options=options)])
            return RequestOutput(prompt if isinstance(prompt, str) else None, tuple(token_ids), tuple(choices))

        tasks = [asyncio.ensure_future(one(prompt, params)) for prompt, params in zip(batch, each, strict=True)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def chat(
        self,
        conversations: Messages | Sequence[Messages],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> list[RequestOutput]:
        """``generate`` for one conversation or several; answers of any length unless ``sampling`` bounds them."""
        several: Sequence[Any] = (
            [conversations] if conversations and isinstance(conversations[0], Mapping) else conversations
        )
        prompts = [self.tokenizer.encode_chat(messages) for messages in several]
        return await self.generate(prompts, sampling or SamplingParams(max_tokens=None), n=n, options=options)

    def _encode(self, prompt: Prompt) -> Sequence[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt


class LLM:
    """``AsyncLLM`` without the event loop, which runs on a thread here.

    ::

        with LLM(workers="1C+1P+1D") as llm:
            print(llm.chat([{"role": "user", "content": "What is the capital of France?"}])[0].text)
    """

    def __init__(
        self,
        model: str = "smollm2-135m-instruct",
        workers: str = "1C",
        strategy: Strategy | str = Strategy.ADAPTIVE,
        *,
        launcher: Launcher | None = None,
        **options: Any,
    ) -> None:
        """See AsyncLLM. The workers are ready when this returns. Raises WorkerError if one cannot start."""
        self._async = AsyncLLM(model, workers, strategy, launcher=launcher, **options)
        self._loop = _LoopThread()
        self._finalizer = weakref.finalize(
            self, _shut_down, self._async, self._loop
        )  # also at exit, if nobody closed it
        try:
            self._loop.run(self._async.start())
        except BaseException:
            self.close()
            raise

    @property
    def tokenizer(self) -> Tokenizer:
        return self._async.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> list[RequestOutput]:
        """See AsyncLLM.generate."""
        return self._loop.run(self._async.generate(prompts, sampling, n=n, options=options))

    def chat(
        self,
        conversations: Messages | Sequence[Messages],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> list[RequestOutput]:
        """See AsyncLLM.chat."""
        return self._loop.run(self._async.chat(conversations, sampling, n=n, options=options))

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> Iterator[ChoiceDelta]:
        """See AsyncLLM.stream."""
        return self._loop.iterate(self._async.stream(prompt, sampling, n=n, options=options))

    def stream_chat(
        self,
        messages: Messages,
        sampling: SamplingParams | None = None,
        *,
        n: int = 1,
        options: GenerationOptions | None = None,
    ) -> Iterator[ChoiceDelta]:
        """See AsyncLLM.stream_chat."""
        return self._loop.iterate(self._async.stream_chat(messages, sampling, n=n, options=options))

    def close(self) -> None:
        """Ends the workers. Safe to call more than once."""
        self._finalizer()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prompts(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """One prompt or several, as several."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]
    return prompts  # type: ignore[return-value]


def _shut_down(llm: AsyncLLM, loop: "_LoopThread") -> None:
    try:
        loop.run(llm.close())
    finally:
        loop.stop()


class _LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nanopd-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it there and waits; Ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Iterates there; leaving early closes it there."""

        async def next_item() -> T | None:
            return await anext(items, None)

        try:
            while (item := self.run(next_item())) is not None:
                yield item
        finally:
            self.run(items.aclose())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
