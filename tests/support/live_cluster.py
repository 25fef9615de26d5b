"""A running cluster with its event loop on a thread of its own, for tests that talk to it from outside."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanopd.cluster.events import FinishRequest
from nanopd.cluster.snapshot import ClusterSnapshot
from nanopd.config import ClusterConfig, EngineConfig
from nanopd.request import Request
from nanopd.runtime.controller import Controller
from nanopd.runtime.launcher import Launcher
from nanopd.runtime.stream import RequestStream

T = TypeVar("T")
REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    finish: FinishRequest


async def read(stream: RequestStream) -> Answer:
    """All of a stream; its indexes must neither skip nor repeat."""
    tokens: list[int] = []
    async for delta in stream:
        assert delta.first_index == len(tokens), f"{stream.request.request_id}: token {len(tokens)} lost or repeated"
        tokens += delta.token_ids
    assert stream.finish is not None
    return Answer(tokens, stream.finish)


class LiveCluster:
    """Starts on entry, stops on exit."""

    def __init__(self, engine: EngineConfig, cluster: ClusterConfig, launcher: Launcher | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="live-cluster", daemon=True)
        self.controller = Controller(engine, cluster, launcher=launcher)

    def __enter__(self) -> "LiveCluster":
        self._thread.start()
        self.run(self.controller.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.controller.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 300.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def call(self, function: Callable[[], T]) -> T:
        """Runs a function in the loop."""

        async def work() -> T:
            return function()

        return self.run(work())

    def generate(self, requests: Sequence[Request], disturb: Callable[[], None] | None = None) -> list[Answer]:
        """Answers of concurrent requests. ``disturb`` runs once they are under way (on the calling thread)."""

        async def submit() -> list["asyncio.Task[Answer]"]:
            streams = [self.controller.submit(request) for request in requests]
            return [asyncio.create_task(read(stream)) for stream in streams]

        async def gather(tasks: list["asyncio.Task[Answer]"]) -> list[Answer]:
            return list(await asyncio.gather(*tasks))

        tasks = self.run(submit())
        if disturb is not None:
            disturb()
        return self.run(gather(tasks))

    def snapshot(self) -> ClusterSnapshot:
        return self.call(self.controller.snapshot)

    def until(self, condition: Callable[[ClusterSnapshot], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition(self.snapshot()):
            assert time.monotonic() < deadline, f"waited too long: {self.snapshot()}"
            time.sleep(0.002)

    def until_nothing_is_held(self) -> None:
        """Every leg has ended, and every worker reports all its blocks as free again."""

        def idle(snapshot: ClusterSnapshot) -> bool:
            ready = [worker for worker in snapshot.workers if worker.ready]
            all_free = all(worker.stats.num_free_blocks == worker.num_blocks for worker in ready)
            return (
                snapshot.num_open_legs == 0
                and not snapshot.requests
                and all_free
                and len(ready) == len(snapshot.workers)
            )

        self.until(idle)


def assert_follows_reference(tokens: Sequence[int], case: dict[str, Any]) -> None:
    """Greedy float32 tokens equal the reference's; where they part, the reference itself was undecided (gap below 1e-3)."""
    expected = case["output_ids"][: len(tokens)]
    parted = next((i for i, (ours, theirs) in enumerate(zip(tokens, expected, strict=True)) if ours != theirs), None)
    if parted is not None:
        gap = case["top1_top2_logprob_gap"][parted]
        assert gap < 1e-3, f"token {parted} is {tokens[parted]}, expected {expected[parted]} by a margin of {gap}"
