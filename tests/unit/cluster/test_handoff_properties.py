"""Any order of messages, losses, duplicates, crashes and aborts: every request ends exactly once, every stream is right, every block comes back."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.fake_cluster import FakeCluster, token

from nanopd.cluster.events import RequestAborted, RequestArrived
from nanopd.request import FinishReason, Request, SamplingParams, Strategy


class Handoffs(RuleBasedStateMachine):
    """Hypothesis drives the network, the workers and the clients."""

    faults = True

    def __init__(self) -> None:
        super().__init__()
        self.cluster = FakeCluster("1C+2P+2D", num_blocks=12, max_attempts=50)
        self.requests: dict[str, int] = {}
        self.num_faults = 0

    def pick(self, index: int) -> str:
        return sorted(self.cluster.workers)[index % len(self.cluster.workers)]

    @rule(
        prompt_len=st.integers(1, 20),
        max_tokens=st.integers(1, 6),
        strategy=st.sampled_from([Strategy.COLLOCATED, Strategy.DISAGGREGATED]),
    )
    def arrive(self, prompt_len: int, max_tokens: int, strategy: Strategy) -> None:
        key = f"r{len(self.requests)}"
        self.requests[key] = max_tokens
        request = Request(
            key, tuple(range(prompt_len)), SamplingParams(max_tokens=max_tokens, seed=0), strategy=strategy
        )
        self.cluster.event(RequestArrived(request))

    @precondition(lambda self: self.requests)
    @rule(index=st.integers(0, 100))
    def client_leaves(self, index: int) -> None:
        live = [key for key in self.requests if key not in self.cluster.finished]
        if live:
            self.cluster.event(RequestAborted(live[index % len(live)]))

    @rule(worker=st.integers(0, 4), count=st.integers(1, 6))
    def deliver_down(self, worker: int, count: int) -> None:
        for _ in range(count):
            self.cluster.deliver_to_worker(self.pick(worker))

    @rule(worker=st.integers(0, 4), count=st.integers(1, 6))
    def deliver_up(self, worker: int, count: int) -> None:
        for _ in range(count):
            self.cluster.deliver_from_worker(self.pick(worker))

    @rule(worker=st.integers(0, 4), count=st.integers(1, 4))
    def work(self, worker: int, count: int) -> None:
        for _ in range(count):
            self.cluster.workers[self.pick(worker)].work()

    @rule(rounds=st.integers(1, 5), random=st.randoms(use_true_random=False))
    def go_on(self, rounds: int, random) -> None:
        """Without faults for a while, in any order, so that the rules around it strike in deep states too."""
        for _ in range(rounds):
            actions = [
                self.cluster.deliver_to_worker,
                self.cluster.deliver_from_worker,
                lambda w: self.cluster.workers[w].work(),
            ]
            for action, worker_id in random.sample([(a, w) for a in actions for w in self.cluster.workers], k=15):
                action(worker_id)

    @rule(worker=st.integers(0, 4))
    def heartbeat(self, worker: int) -> None:
        self.cluster.workers[self.pick(worker)].heartbeat()

    @rule(seconds=st.floats(0.1, 20.0))
    def pass_time(self, seconds: float) -> None:
        self.cluster.pass_time(seconds)

    @precondition(lambda self: self.num_faults < 12)
    @rule(worker=st.integers(0, 4))
    def crash(self, worker: int) -> None:
        self.num_faults += 1
        self.cluster.crash(self.pick(worker))

    @precondition(lambda self: self.num_faults < 12)
    @rule(worker=st.integers(0, 4), down=st.booleans())
    def lose(self, worker: int, down: bool) -> None:
        queue = (self.cluster.to_workers if down else self.cluster.from_workers)[self.pick(worker)]
        if queue and (down or b"Hello" not in queue[0][1]):  # a Hello that is lost is a worker that never started
            self.num_faults += 1
            queue.popleft()

    @precondition(lambda self: self.num_faults < 12)
    @rule(worker=st.integers(0, 4), down=st.booleans())
    def double(self, worker: int, down: bool) -> None:
        queue = (self.cluster.to_workers if down else self.cluster.from_workers)[self.pick(worker)]
        if queue:
            self.num_faults += 1
            queue.insert(1, queue[0])

    @invariant()
    def blocks_are_whole(self) -> None:
        for worker in self.cluster.workers.values():
            assert len(worker.free) + len(worker.owner) == self.cluster.num_blocks

    def teardown(self) -> None:
        self.cluster.settle()
        for key, max_tokens in self.requests.items():
            finish, stream = self.cluster.finished[key], self.cluster.streams.get(key, [])
            assert stream == [token(key, i) for i in range(len(stream))]
            if finish.reason is FinishReason.LENGTH:
                assert len(stream) == max_tokens
            else:
                assert finish.reason is FinishReason.ABORT, finish.error
        for worker in self.cluster.workers.values():
            assert len(worker.free) == self.cluster.num_blocks, f"{worker.worker_id} leaks blocks"


Handoffs.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHandoffs = Handoffs.TestCase
