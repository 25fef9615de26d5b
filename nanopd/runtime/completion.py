"""The finished choices of a prompt, for callers who do not stream."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from nanopd.cluster.events import RequestReport
from nanopd.request import FinishReason, TokenLogprobs
from nanopd.runtime.generation import ChoiceDelta, Generation, raise_if_failed


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished choice. ``token_ids`` include the stop token if there was one; ``text`` does not."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_string: str | None = None  # the stop string that ended it
    logprobs: tuple[TokenLogprobs, ...] = ()  # one per token, when asked for
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None  # of every prompt token but the first, when asked for
    report: RequestReport | None = None
    score: float | None = None  # of a beam search's hypothesis, which the best comes first by
    logprob: float | None = None  # of a hypothesis' tokens together


@dataclass(slots=True)
class _Parts:
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    last: ChoiceDelta | None = None

    def add(self, delta: ChoiceDelta) -> None:
        self.text.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.prompt_logprobs = delta.prompt_logprobs or self.prompt_logprobs
        self.last = delta

    def completion(self) -> Completion:
        last = self.last
        assert last is not None and last.finish_reason is not None, "a choice ended without a finish reason"
        return Completion(
            last.index,
            "".join(self.text),
            tuple(self.token_ids),
            last.finish_reason,
            last.stop_string,
            tuple(self.logprobs),
            self.prompt_logprobs,
            last.report,
        )


async def collect_all(generations: Sequence[Generation]) -> list[list[Completion]]:
    """Waits for every choice of every prompt. Raises RequestFailedError, and aborts the others, as soon as one fails."""
    async with AsyncExitStack() as stack:
        for generation in generations:
            await stack.enter_async_context(generation)
        return await asyncio.gather(*(_collect(generation) for generation in generations))


async def _collect(generation: Generation) -> list[Completion]:
    choices: dict[int, _Parts] = {}
    async for delta in generation:
        raise_if_failed(delta.finish)
        choices.setdefault(delta.index, _Parts()).add(delta)
    return [choices[index].completion() for index in sorted(choices)]
