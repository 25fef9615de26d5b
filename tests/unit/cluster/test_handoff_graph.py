"""Hand-offs in all directions between full workers: none waits for a deadline."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_cluster import FakeCluster, token

from nanopd.cluster.events import RequestArrived
from nanopd.cluster.handoff_graph import HandoffGraph
from nanopd.request import FinishReason, Request, SamplingParams, Strategy
from nanopd.router.plan import Candidate, Decision

NO_DEADLINE = {"reserve_timeout_s": 1e9, "queue_timeout_s": 1e9, "heartbeat_timeout_s": 1e9}


@dataclass
class PairRouter:
    """Each request goes where the test says."""

    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)

    def plan(self, request, strategy, num_output_tokens, cluster, avoid, now) -> Decision | None:
        if not all(worker.ready for worker in cluster.workers.values()):
            return None
        return Decision(Candidate(*self.pairs[request.request_id]), "the test says so", "pairs")

    def finished(self, request, num_output_tokens, reason, now) -> None:
        pass


def make(num_workers: int, num_blocks: int) -> tuple[FakeCluster, PairRouter]:
    router = PairRouter()
    cluster = FakeCluster(f"{num_workers}C", num_blocks, router, **NO_DEADLINE)
    for worker_id in cluster.workers:
        cluster.deliver_from_worker(worker_id)
    return cluster, router


def arrive(cluster: FakeCluster, router: PairRouter, prefill: int, decode: int, prompt_len: int) -> str:
    key = f"r{len(router.pairs)}"
    router.pairs[key] = f"collocated-{prefill}", f"collocated-{decode}"
    params = SamplingParams(max_tokens=3, seed=0)
    cluster.event(RequestArrived(Request(key, tuple(range(prompt_len)), params, strategy=Strategy.ADAPTIVE)))
    return key


def check_all_answered(cluster: FakeCluster, router: PairRouter) -> None:
    cluster.settle()
    for key in router.pairs:
        assert cluster.finished[key].reason is FinishReason.LENGTH
        assert cluster.streams[key] == [token(key, i) for i in range(3)]
        assert cluster.finished[key].report.num_attempts == 1
    assert len(cluster.central._handoffs) == 0


def test_two_workers_full_of_reservations_for_each_other() -> None:
    """Without the rule each holds all its blocks for a prompt that the other has no blocks to compute."""
    cluster, router = make(num_workers=2, num_blocks=8)
    for _ in range(2):
        arrive(cluster, router, 0, 1, prompt_len=16)
    for _ in range(2):
        arrive(cluster, router, 1, 0, prompt_len=16)
    check_all_answered(cluster, router)
    assert cluster.central.counters.handoffs == 2
    assert cluster.central.counters.fallbacks == {"circle": 2}
    report = cluster.finished["r3"].report
    assert report.decision.chosen.path == "collocated" and report.decision.chosen.decode_worker == "collocated-1"
    assert report.decision.reason.startswith("the test says so; kept on collocated-1")


def test_both_directions_are_open_one_after_the_other() -> None:
    cluster, router = make(num_workers=2, num_blocks=8)
    for prefill, decode in ((0, 1), (1, 0), (0, 1)):
        arrive(cluster, router, prefill, decode, prompt_len=16)
        check_all_answered(cluster, router)
    assert cluster.central.counters.handoffs == 3


@settings(max_examples=200, deadline=None)
@given(
    num_workers=st.integers(2, 4),
    num_blocks=st.integers(5, 12),
    arrivals=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 20)), min_size=2, max_size=14),
    schedule=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=60),
)
def test_no_mix_of_hand_offs_waits_for_a_deadline(num_workers, num_blocks, arrivals, schedule) -> None:
    """Any pairs, sizes and order of messages. ``settle`` fails if anything is left waiting."""
    cluster, router = make(num_workers, num_blocks)
    actions = (
        cluster.deliver_to_worker,
        cluster.deliver_from_worker,
        lambda worker_id: cluster.workers[worker_id].work(),
    )
    steps = iter(schedule)
    for prefill, decode, prompt_len in arrivals:
        arrive(cluster, router, prefill % num_workers, decode % num_workers, prompt_len)
        for action, worker in (next(steps, (0, 0)) for _ in range(4)):
            actions[action](f"collocated-{worker % num_workers}")
    check_all_answered(cluster, router)


def test_the_graph_knows_direct_and_distant_circles() -> None:
    graph = HandoffGraph()
    graph.open("r0", "a", "b")
    graph.open("r1", "a", "b")
    graph.open("r2", "b", "c")
    assert graph.closes_circle("c", "a") and graph.closes_circle("b", "a") and graph.closes_circle("c", "b")
    assert not graph.closes_circle("a", "c") and not graph.closes_circle("a", "b") and not graph.closes_circle("d", "a")
    graph.close("r2")
    graph.close("r2")
    assert not graph.closes_circle("c", "a") and graph.closes_circle("b", "a")
    graph.close("r0")
    assert graph.closes_circle("b", "a")
    graph.close("r1")
    assert len(graph) == 0 and not graph.closes_circle("b", "a")
    with pytest.raises(AssertionError, match="r3 is being handed off already"):
        graph.open("r3", "a", "b")
        graph.open("r3", "a", "c")
