"""KV on its way between workers: pushes that leave one worker, or arrive at one, share its link evenly."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nanopd.cost_model import TransferModel
from nanopd.kv_transfer.transport import PoolHandle, PushResult
from nanopd.simulator.events import EventQueue


@dataclass(slots=True, eq=False)
class _Push:
    push_id: str
    source: str
    destination: str
    num_bytes: int
    began: float
    on_end: Callable[[PushResult], None]
    left: float = field(init=False)  # bytes
    rate: float = 0.0  # bytes per second

    def __post_init__(self) -> None:
        self.left = float(self.num_bytes)


class Network:
    """Every worker has one link out and one in, each of the model's bandwidth. A push gets the smaller of its two shares."""

    def __init__(self, model: TransferModel, events: EventQueue) -> None:
        self._model = model
        self._events = events
        self._active: dict[str, _Push] = {}
        self._waiting: dict[str, _Push] = {}  # within the latency
        self._settled_at = 0.0
        self._version = 0

    def push(
        self, push_id: str, source: str, destination: str, num_bytes: int, on_end: Callable[[PushResult], None]
    ) -> None:
        now = self._events.clock.now()
        self._waiting[push_id] = _Push(push_id, source, destination, num_bytes, now, on_end)
        self._events.at(now + self._model.latency_ms / 1e3, lambda: self._start(push_id))

    def cancel(self, push_id: str) -> None:
        """Reported at once: nothing of it is written any more."""
        push = self._waiting.pop(push_id, None)
        if push is None:
            self._settle()
            push = self._active.pop(push_id, None)
            self._share()
        if push is not None:
            push.on_end(PushResult(push_id, 0, 0.0, "cancelled"))

    def _start(self, push_id: str) -> None:
        push = self._waiting.pop(push_id, None)
        if push is not None:
            self._settle()
            self._active[push_id] = push
            self._share()

    def _settle(self) -> None:
        """Books what has moved since the rates were last set."""
        now = self._events.clock.now()
        elapsed, self._settled_at = now - self._settled_at, now
        for push in self._active.values():
            push.left -= push.rate * elapsed

    def _share(self) -> None:
        """Sets the rates anew and waits for the first push that ends at them."""
        self._version += 1
        if not self._active:
            return
        out = Counter(push.source for push in self._active.values())
        into = Counter(push.destination for push in self._active.values())
        for push in self._active.values():
            push.rate = self._model.bandwidth_gb_s * 1e9 / max(out[push.source], into[push.destination])
        first = min(push.left / push.rate for push in self._active.values())
        version = self._version
        self._events.at(self._events.clock.now() + first, lambda: self._arrive(version))

    def _arrive(self, version: int) -> None:
        if version != self._version:
            return  # the rates have changed since
        self._settle()
        now = self._events.clock.now()
        ended = [push for push in self._active.values() if push.left <= push.rate * 1e-9]
        for push in ended:
            del self._active[push.push_id]
        self._share()
        for push in ended:
            push.on_end(PushResult(push.push_id, push.num_bytes, (now - push.began) * 1e3))


class SimSender:
    """One worker's end of the network: a ``KvSender``."""

    def __init__(self, network: Network, worker_id: str, block_bytes: int, on_news: Callable[[], None]) -> None:
        """``on_news`` is called when ``poll`` has something to say."""
        self._network = network
        self._worker_id = worker_id
        self._block_bytes = block_bytes
        self._on_news = on_news
        self._results: list[PushResult] = []

    def meet(self, destination: PoolHandle) -> None:
        """Nothing to find out."""

    def push(
        self, push_id: str, destination: PoolHandle, source_ids: Sequence[int], destination_ids: Sequence[int]
    ) -> None:
        num_bytes = len(source_ids) * self._block_bytes
        self._network.push(push_id, self._worker_id, destination.name, num_bytes, self._ended)

    def poll(self) -> list[PushResult]:
        results, self._results = self._results, []
        return results

    def cancel(self, push_id: str) -> None:
        self._network.cancel(push_id)

    def forget(self, destination: PoolHandle) -> None:
        """Nothing is mapped."""

    def close(self) -> None:
        """Nothing is held."""

    def _ended(self, result: PushResult) -> None:
        self._results.append(result)
        self._on_news()
