"""A cluster of model workers behind a network that may lose, duplicate and delay messages. Used to test the central scheduler.

The twin checks what the real workers rely on: a block is written only for the leg that owns it, and decoding starts only on KV that is complete.
Token i of request r is ``token(r, i)``, whatever worker samples it.
"""

from collections import deque
from dataclasses import dataclass, field

from nanopd.cluster import CentralScheduler
from nanopd.cluster.events import (
    EmitTokens,
    FinishRequest,
    RestartWorker,
    Send,
    Tick,
    WorkerAdded,
    WorkerLost,
    WorkerMessage,
)
from nanopd.config import ClusterConfig, Topology
from nanopd.messages import (
    Abort,
    Heartbeat,
    Hello,
    KvPushed,
    Leg,
    LegEnded,
    LegState,
    Prefill,
    Reserve,
    Reserved,
    RunLocal,
    Start,
    TokenDelta,
    TokensOut,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from nanopd.request import FinishReason
from nanopd.router.baselines.fixed import FixedPathRouter

BLOCK_SIZE = 4


def token(request_id: str, index: int) -> int:
    return (hash_of(request_id) * 31 + index * 7) % 1000


def hash_of(text: str) -> int:
    return sum(ord(c) * (i + 1) for i, c in enumerate(text))


def num_blocks_for(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


@dataclass
class FakeLeg:
    message: RunLocal | Reserve | Prefill
    blocks: list[int] = field(default_factory=list)
    num_output: int = 0
    started: bool = False
    pushed_blocks: int = 0
    sampled: bool = False

    @property
    def leg(self) -> Leg:
        return self.message.leg

    @property
    def num_prompt_blocks(self) -> int:
        return num_blocks_for(len(self.message.request.prompt_token_ids) + len(self.message.output_token_ids))


class FakeWorker:
    """One incarnation of a worker: a pool of blocks, each with an owner and the leg whose KV it holds."""

    def __init__(self, worker_id: str, incarnation: int, num_blocks: int, cluster: "FakeCluster") -> None:
        self.worker_id, self.incarnation, self.cluster = worker_id, incarnation, cluster
        self.free = list(range(num_blocks))
        self.owner: dict[int, Leg] = {}
        self.content: dict[int, tuple[Leg, int]] = {}
        self.legs: dict[Leg, FakeLeg] = {}
        self.ended: set[Leg] = set()
        self.waiting: deque[FakeLeg] = deque()
        self.alive = True

    def say(self, message) -> None:
        self.cluster.from_workers[self.worker_id].append((self.incarnation, encode(message)))

    def hello(self, num_blocks: int) -> None:
        self.say(Hello(self.worker_id, self.incarnation, 1, num_blocks, BLOCK_SIZE, 512, 4, {}))

    def receive(self, data: bytes) -> None:
        message = decode_to_worker(data)
        leg = message.leg
        match message:
            case Abort():
                if leg in self.legs:
                    self.end(self.legs[leg], FinishReason.ABORT)
                else:
                    self.ended.add(leg)
                    self.say(LegEnded(leg, None))
            case Start(first_token_id=first):
                entry = self.legs.get(leg)
                if entry is not None and entry.blocks and not entry.started:
                    entry.started = True
                    entry.num_output = len(entry.message.output_token_ids) + 1
                    assert first == token(leg.request_id, entry.num_output - 1), "started with another token"
                    for i, block in enumerate(entry.blocks[: entry.num_prompt_blocks]):
                        assert self.content.get(block) == (leg, i), "decode starts on KV that has not arrived"
            case RunLocal() | Reserve() | Prefill():
                if leg not in self.legs and leg not in self.ended:
                    entry = FakeLeg(message, num_output=len(message.output_token_ids))
                    self.legs[leg] = entry
                    self.waiting.append(entry)
        self.admit()

    def admit(self) -> None:
        while self.waiting:
            entry = self.waiting[0]
            if entry.leg not in self.legs:
                self.waiting.popleft()
                continue
            needed = entry.num_prompt_blocks
            if needed > self.cluster.num_blocks:
                self.waiting.popleft()
                self.end(entry, FinishReason.ERROR, f"{needed} blocks are more than the pool has")
            elif needed > len(self.free):
                return
            else:
                self.give_blocks(self.waiting.popleft(), needed)

    def give_blocks(self, entry: FakeLeg, needed: int) -> None:
        entry.blocks = [self.free.pop() for _ in range(needed)]
        for block in entry.blocks:
            assert block not in self.owner, "a block has two owners"
            self.owner[block] = entry.leg
        if isinstance(entry.message, Reserve):
            self.say(Reserved(entry.leg, tuple(entry.blocks), 0))

    def end(self, entry: FakeLeg, reason: FinishReason | None, error: str | None = None) -> None:
        for block in entry.blocks:
            del self.owner[block]
            self.free.append(block)
        del self.legs[entry.leg]
        self.ended.add(entry.leg)
        self.say(LegEnded(entry.leg, reason, error, num_output_tokens=entry.num_output))
        self.admit()

    def work(self) -> None:
        """One step: every running leg moves on by one token or one pushed block."""
        for entry in list(self.legs.values()):
            if not entry.blocks:
                continue
            match entry.message:
                case RunLocal():
                    self.sample(entry)
                case Reserve() if entry.started:
                    self.sample(entry)
                case Prefill():
                    self.push(entry)

    def sample(self, entry: FakeLeg) -> bool:
        """Emits one token; True when it was the last."""
        index = entry.num_output
        delta = TokenDelta(entry.leg, index, (token(entry.leg.request_id, index),))
        self.say(TokensOut((delta,)))
        entry.num_output += 1
        if entry.num_output >= (entry.message.request.sampling.max_tokens or 1):
            self.end(entry, FinishReason.LENGTH)
            return True
        return False

    def push(self, entry: FakeLeg) -> None:
        message = entry.message
        target = self.cluster.workers.get(message.destination_worker)
        if target is None or target.incarnation != message.destination_incarnation or not target.alive:
            self.end(entry, FinishReason.ERROR, "the destination is gone")
            return
        if entry.pushed_blocks < len(message.block_ids):
            block = message.block_ids[entry.pushed_blocks]
            assert target.owner.get(block) == entry.leg, "a block was reused before its fence"
            target.content[block] = (entry.leg, entry.pushed_blocks)
            entry.pushed_blocks += 1
            return
        if not entry.sampled:
            entry.sampled = True
            if self.sample(entry):
                return
        self.say(KvPushed(entry.leg, entry.pushed_blocks, 1, 1.0, 1.0, "fake"))
        self.end(entry, None)

    def heartbeat(self) -> None:
        def state(entry: FakeLeg) -> LegState:
            return LegState.RESERVED if isinstance(entry.message, Reserve) and not entry.started else LegState.RUNNING

        self.say(Heartbeat(self.cluster.stats, legs=tuple((leg, state(entry)) for leg, entry in self.legs.items())))


class FakeCluster:
    """The central scheduler, its workers, and the two queues between it and each of them."""

    def __init__(self, topology: str, num_blocks: int = 12, router=None, **config) -> None:
        from nanopd.messages import WorkerStats

        self.stats = WorkerStats()
        self.config = ClusterConfig(topology=Topology.parse(topology), **config)
        self.central = CentralScheduler(self.config, router or FixedPathRouter())
        self.num_blocks = num_blocks
        self.now = 0.0
        self.workers: dict[str, FakeWorker] = {}
        self.to_workers: dict[str, deque] = {}
        self.from_workers: dict[str, deque] = {}
        self.streams: dict[str, list[int]] = {}
        self.finished: dict[str, FinishRequest] = {}
        for spec in self.config.topology.workers():
            self.to_workers[spec.worker_id] = deque()
            self.from_workers[spec.worker_id] = deque()
            self.spawn(spec.worker_id, spec.role, 0)

    def spawn(self, worker_id: str, role, incarnation: int) -> None:
        self.event(WorkerAdded(worker_id, incarnation, role))
        self.workers[worker_id] = FakeWorker(worker_id, incarnation, self.num_blocks, self)
        self.to_workers[worker_id].clear()
        self.workers[worker_id].hello(self.num_blocks)

    def crash(self, worker_id: str) -> None:
        """kill -9: what it had said may still arrive, what was on the way to it is gone; a new incarnation starts."""
        old = self.workers[worker_id]
        old.alive = False
        role = self.central.view.workers[worker_id].role
        self.event(WorkerLost(worker_id, old.incarnation))
        self.spawn(worker_id, role, old.incarnation + 1)

    def event(self, event) -> None:
        for command in self.central.on_event(event, self.now):
            match command:
                case Send():
                    if command.incarnation == self.workers[command.worker_id].incarnation:
                        self.to_workers[command.worker_id].append(encode(command.message))
                case EmitTokens():
                    stream = self.streams.setdefault(command.request_id, [])
                    assert command.request_id not in self.finished, "tokens after the end"
                    assert command.delta.first_index == len(stream), "a token is missing or doubled"
                    stream.extend(command.delta.token_ids)
                case FinishRequest():
                    assert command.request_id not in self.finished, "a request ended twice"
                    assert (command.error is not None) == (command.reason in (FinishReason.ERROR, FinishReason.REFUSED))
                    self.finished[command.request_id] = command
                case RestartWorker():
                    self.crash(command.worker_id)

    def deliver_to_worker(self, worker_id: str) -> None:
        if self.to_workers[worker_id]:
            self.workers[worker_id].receive(self.to_workers[worker_id].popleft())

    def deliver_from_worker(self, worker_id: str) -> None:
        if self.from_workers[worker_id]:
            incarnation, data = self.from_workers[worker_id].popleft()
            self.event(WorkerMessage(worker_id, incarnation, decode_from_worker(data)))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.event(Tick())

    def settle(self, rounds: int = 400) -> None:
        """No more faults: runs until every request has ended and every leg is closed."""
        for _ in range(rounds):
            for worker_id in self.workers:
                while self.to_workers[worker_id]:
                    self.deliver_to_worker(worker_id)
                self.workers[worker_id].work()
                self.workers[worker_id].heartbeat()
                while self.from_workers[worker_id]:
                    self.deliver_from_worker(worker_id)
            self.pass_time(0.5)
            if (
                self.central.queue_depth == 0
                and self.central.num_open_legs == 0
                and not any(w.legs for w in self.workers.values())
            ):
                return
        raise AssertionError(f"still unsettled: {self.central.snapshot()}")
