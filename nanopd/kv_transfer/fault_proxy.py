"""A sender that misbehaves on purpose and reproducibly: pushes are dropped, delayed, failed, corrupted, or reported twice. For tests."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from nanopd.clock import Clock
from nanopd.errors import TransferError
from nanopd.kv_transfer.transport import KvSender, PoolHandle, PushResult


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Chance of each fault per push; the rest go through untouched. ``max_faults`` bounds them, so that a retry gets through in the end."""

    drop: float = 0.0  # never carried out, never reported (until cancelled)
    delay: float = 0.0  # carried out ``delay_s`` later
    fail: float = 0.0  # reported as an error
    corrupt: float = 0.0  # carried out from a wrong source block, reported as a success
    duplicate: float = 0.0  # reported twice
    delay_s: float = 0.05
    max_faults: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Push:
    push_id: str
    destination: PoolHandle
    source_ids: list[int]
    destination_ids: list[int]


@dataclass(slots=True)
class FaultySender:
    """Wraps any ``KvSender``. ``counts`` says how often each fault was played."""

    inner: KvSender
    plan: FaultPlan
    clock: Clock
    counts: dict[str, int] = field(default_factory=dict)
    _random: random.Random = field(init=False)
    _dropped: set[str] = field(init=False, default_factory=set)
    _delayed: dict[str, tuple[float, _Push]] = field(init=False, default_factory=dict)
    _doubled: set[str] = field(init=False, default_factory=set)
    _results: list[PushResult] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.plan.seed)

    def meet(self, destination: PoolHandle) -> None:
        self.inner.meet(destination)

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        push = _Push(push_id, destination, list(source_ids), list(destination_ids))
        match self._draw():
            case "drop":
                self._dropped.add(push_id)
            case "delay":
                self._delayed[push_id] = (self.clock.now() + self.plan.delay_s, push)
            case "fail":
                self._results.append(PushResult(push_id, 0, 0.0, "injected failure"))
            case "corrupt":
                wrong = push.source_ids[0] - 1 if push.source_ids[0] else 1
                self.inner.push(push_id, destination, [wrong, *push.source_ids[1:]], push.destination_ids)
            case "duplicate":
                self._doubled.add(push_id)
                self._forward(push)
            case _:
                self._forward(push)

    def poll(self) -> list[PushResult]:
        now = self.clock.now()
        for push_id, (due, push) in list(self._delayed.items()):
            if now >= due:
                del self._delayed[push_id]
                try:
                    self._forward(push)
                except TransferError as error:  # the destination went away meanwhile
                    self._results.append(PushResult(push_id, 0, 0.0, str(error)))
        results, self._results = self._results + self.inner.poll(), []
        return results + [result for result in results if result.push_id in self._doubled]

    def cancel(self, push_id: str) -> None:
        held = push_id in self._dropped or push_id in self._delayed
        self._dropped.discard(push_id)
        self._delayed.pop(push_id, None)
        if held:
            self._results.append(PushResult(push_id, 0, 0.0, "cancelled"))
        else:
            self.inner.cancel(push_id)

    def forget(self, destination: PoolHandle) -> None:
        self.inner.forget(destination)

    def close(self) -> None:
        self.inner.close()

    def _forward(self, push: _Push) -> None:
        self.inner.push(push.push_id, push.destination, push.source_ids, push.destination_ids)

    def _draw(self) -> str | None:
        if self.plan.max_faults is not None and sum(self.counts.values()) >= self.plan.max_faults:
            return None
        point = self._random.random()
        for name in ("drop", "delay", "fail", "corrupt", "duplicate"):
            point -= getattr(self.plan, name)
            if point < 0:
                self.counts[name] = self.counts.get(name, 0) + 1
                return name
        return None
