"""What the caller of ``Controller.submit`` holds: the tokens of one request as they come, and how it ended."""

import asyncio
from collections import deque

from nanopd.cluster.events import FinishRequest
from nanopd.messages import TokenDelta
from nanopd.request import Request


class RequestStream:
    """An async iterator of ``TokenDelta`` for one reader.

    After the last, ``finish`` is set: a failed request ends with reason ERROR, not with an exception.
    A reader that goes away early calls ``Controller.abort``; what is buffered is bounded by ``max_tokens``.
    """

    def __init__(self, request: Request) -> None:
        self.request = request  # with seed and max_tokens resolved
        self.finish: FinishRequest | None = None
        self._deltas: deque[TokenDelta] = deque()
        self._news = asyncio.Event()

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> TokenDelta:
        while not self._deltas:
            if self.finish is not None:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._deltas.popleft()

    def feed(self, delta: TokenDelta) -> None:
        """New tokens (from the controller)."""
        assert self.finish is None, f"tokens after the end of {self.request.request_id}"
        self._deltas.append(delta)
        self._news.set()

    def end(self, finish: FinishRequest) -> None:
        """The end, once (from the controller)."""
        assert self.finish is None, f"{self.request.request_id} ended twice"
        self.finish = finish
        self._news.set()
