"""nanopd as a library: ``LLM`` for scripts, ``AsyncLLM`` for programs that stream."""

import asyncio
import functools
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from nanopd.cluster.events import RequestReport
from nanopd.config.options import build_configs
from nanopd.errors import InvalidRequestError
from nanopd.request import BeamParams, FinishReason, SamplingParams, Strategy, TokenLogprobs
from nanopd.runtime.beams import beam_search
from nanopd.runtime.completion import Completion, collect_all
from nanopd.runtime.controller import Controller
from nanopd.runtime.generation import ChoiceDelta, GenerationOptions, Generator, raise_if_failed
from nanopd.runtime.launcher import InProcessLauncher, Launcher, LocalProcessLauncher
from nanopd.runtime.loop_thread import LoopThread
from nanopd.scheduler import longest_first
from nanopd.tokenizer import Tokenizer, load_tokenizer

P = ParamSpec("P")
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
        """The outputs of all prompts, in order. ``sampling`` is for all, or one for each. Those with the largest ``max_tokens`` start first.

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

        async def answer(index: int, token_ids: Sequence[int]) -> list[Completion]:
            (choices,) = await collect_all([self._generator.submit(token_ids, each[index], n=n, options=options)])
            return choices

        return await self._each(batch, n, answer, longest_first([params.max_tokens for params in each]))

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

    async def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        width: int = 4,
        max_tokens: int = 16,
        *,
        length_penalty: float = 1.0,
        early_stopping: str = "heuristic",
        ignore_eos: bool = False,
        options: GenerationOptions | None = None,
    ) -> list[RequestOutput]:
        """The ``width`` best continuations of each prompt as its ``choices``, best first, each with ``score`` and ``logprob``.

        What the other parameters mean is told in ``decoding.beam_search``. Raises as ``generate`` does.
        """
        params = BeamParams(width, length_penalty, early_stopping)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=ignore_eos)
        return await self._each(
            _prompts(prompts),
            1,
            lambda _, token_ids: beam_search(self._generator, token_ids, params, sampling, options),
        )

    async def _each(
        self,
        prompts: Sequence[Prompt],
        num_requests: int,
        answer: Callable[[int, Sequence[int]], Awaitable[list[Completion]]],
        order: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """``answer(index, token ids)`` of every prompt, each of which takes ``num_requests`` places in the queue. The first error ends all.

        ``order``: in which the prompts' indices are started; None: as they come.
        """
        places = asyncio.Semaphore(
            max(1, self._max_in_flight // num_requests)
        )  # many wait here instead of being refused

        async def one(index: int, prompt: Prompt) -> RequestOutput:
            token_ids = self._encode(prompt)
            async with places:
                choices = await answer(index, token_ids)
            return RequestOutput(prompt if isinstance(prompt, str) else None, tuple(token_ids), tuple(choices))

        indices = range(len(prompts)) if order is None else order
        tasks = {index: asyncio.ensure_future(one(index, prompts[index])) for index in indices}
        try:
            return await asyncio.gather(*(tasks[index] for index in range(len(prompts))))
        finally:
            for task in tasks.values():
                task.cancel()

    def _encode(self, prompt: Prompt) -> Sequence[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt


def _waiting(method: Callable[Concatenate[AsyncLLM, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate["LLM", P], T]:
    """The same method for callers who wait."""

    @functools.wraps(method)
    def wait(self: "LLM", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._async, *args, **kwargs))

    return wait


def _iterating(
    method: Callable[Concatenate[AsyncLLM, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["LLM", P], Iterator[T]]:
    """The same method for callers without an event loop."""

    @functools.wraps(method)
    def iterate(self: "LLM", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._loop.iterate(method(self._async, *args, **kwargs))

    return iterate


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
        self._loop = LoopThread()
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

    generate = _waiting(AsyncLLM.generate)
    chat = _waiting(AsyncLLM.chat)
    beam_search = _waiting(AsyncLLM.beam_search)
    stream = _iterating(AsyncLLM.stream)
    stream_chat = _iterating(AsyncLLM.stream_chat)

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


def _shut_down(llm: AsyncLLM, loop: LoopThread) -> None:
    try:
        loop.run(llm.close())
    finally:
        loop.stop()
