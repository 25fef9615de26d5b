"""The state behind the page. Nothing runs while nobody looks: two hooks keep a little history, a frame is built when it is asked for."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from nanopd.cluster.events import EmitTokens, FinishRequest
from nanopd.request import Request
from nanopd.server.dashboard.frame import FinishedRequest, Live, LiveRequest, ServerFacts
from nanopd.server.dashboard.phases import Stage, phases, stage_of

if TYPE_CHECKING:
    from nanopd.runtime.controller import Controller

PERIOD_S = 0.5
MAX_LIVE = 64  # requests a frame describes; it counts all
MAX_FINISHED = 96
HISTORY_S = 120


class DashboardFeed:
    """Frames of one controller, for any number of readers."""

    def __init__(
        self,
        controller: "Controller",
        model: str,
        version: str,
        clock: Callable[[], float] = time.monotonic,
        period_s: float = PERIOD_S,
    ) -> None:
        self._controller = controller
        self._model, self._version = model, version
        self._clock = clock
        self._period_s = period_s
        self._num_finished = 0
        self._finished: deque[FinishedRequest] = deque(maxlen=MAX_FINISHED)
        self._rate = _TokenRate()
        self._cached_at = float("-inf")
        self._cached = msgspec.Raw(b"")
        self._closed = asyncio.Event()
        controller.on_tokens.append(self.on_tokens)
        controller.on_finish.append(self.on_finish)

    def close(self) -> None:
        """Ends every stream: a server that shuts down must not wait for open pages."""
        self._closed.set()

    # ---- hooks

    def on_tokens(self, emitted: EmitTokens) -> None:
        self._rate.add(self._clock(), len(emitted.delta.token_ids))

    def on_finish(self, finish: FinishRequest, request: Request) -> None:
        self._num_finished += 1
        report = finish.report
        spans = phases(report) if report is not None else ()
        self._finished.append(
            FinishedRequest(
                self._num_finished, finish.request_id, self._clock(), finish.reason, finish.error, report, spans
            )
        )

    # ---- frames

    def frame(self, after: int = 0) -> bytes:
        """A ``Frame`` as JSON; of the finished requests, those numbered above ``after``.

        Raises WorkerError before the workers are ready.
        """
        finished = [request for request in self._finished if request.number > after]
        return msgspec.json.encode({"live": self._live_json(), "finished": finished})

    async def events(self, after: int = 0) -> AsyncGenerator[bytes, None]:
        """Server-sent events: a frame now and every ``period_s``, each with the requests that finished since the last."""
        while not self._closed.is_set():
            frame, after = self.frame(after), self._num_finished
            yield b"data: " + frame + b"\n\n"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), self._period_s)

    def _live_json(self) -> msgspec.Raw:
        """Encoded once for all readers of the same half period."""
        now = self._clock()
        if now - self._cached_at >= self._period_s / 2:
            self._cached = msgspec.Raw(msgspec.json.encode(self.live(now)))
            self._cached_at = now
        return self._cached

    def live(self, now: float) -> Live:
        """The cluster as it stands."""
        controller, snapshot = self._controller, self._controller.snapshot()
        config = controller.cluster_config
        counts = Counter(stage_of(request) for request in snapshot.requests)
        requests = tuple(
            LiveRequest(
                r.request_id,
                stage_of(r),
                r.state,
                r.age_s,
                r.attempt,
                r.num_prompt_tokens,
                r.num_output_tokens,
                r.decision,
            )
            for r in islice(snapshot.requests, MAX_LIVE)
        )
        return Live(
            now=now,
            server=ServerFacts(
                self._model,
                self._version,
                str(config.topology),
                config.strategy.value,
                config.policy,
                controller.max_model_len,
            ),
            workers=snapshot.workers,
            stages={stage: counts[stage] for stage in Stage if stage is not Stage.LOST},
            requests=requests,
            counters=snapshot.counters,
            tokens_per_s=self._rate.history(now),
            fit=snapshot.fit,
        )


class _TokenRate:
    """Tokens by second, for the last ``HISTORY_S``."""

    def __init__(self) -> None:
        self._counts: deque[int] = deque([0] * HISTORY_S, maxlen=HISTORY_S)  # of whole seconds
        self._second: int | None = None  # the one still running
        self._current = 0

    def add(self, now: float, count: int) -> None:
        self._advance(int(now))
        self._current += count

    def history(self, now: float) -> tuple[int, ...]:
        """Whole seconds only: the running one would look like a drop."""
        self._advance(int(now))
        return tuple(self._counts)

    def _advance(self, second: int) -> None:
        if self._second is None:
            self._second = second
        if second > self._second:
            self._counts.append(self._current)
            self._counts.extend([0] * min(second - self._second - 1, HISTORY_S))
            self._second, self._current = second, 0
