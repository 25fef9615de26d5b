"""The hand-off, case by case."""

from dataclasses import replace

import pytest
from support.fake_cluster import FakeCluster, token

from nanopd.cluster.events import RequestAborted, RequestArrived
from nanopd.messages import Abort, Reserve, decode_to_worker
from nanopd.request import FinishReason, Request, SamplingParams, Strategy
from nanopd.router import Decision
from nanopd.router.baselines.fixed import FixedPathRouter


def make(
    key: str = "r", prompt_len: int = 10, max_tokens: int = 4, strategy: Strategy = Strategy.DISAGGREGATED
) -> Request:
    return Request(key, tuple(range(prompt_len)), SamplingParams(max_tokens=max_tokens, seed=0), strategy=strategy)


def pending(cluster: FakeCluster, worker_id: str) -> list:
    return [decode_to_worker(data) for data in cluster.to_workers[worker_id]]


def arrive_and_prefill(cluster: FakeCluster) -> None:
    """Up to the first block pushed."""
    cluster.event(RequestArrived(make()))
    cluster.deliver_to_worker("decode-0")
    while cluster.from_workers["decode-0"]:
        cluster.deliver_from_worker("decode-0")
    cluster.deliver_to_worker("prefill-0")
    cluster.workers["prefill-0"].work()


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster("1C+1P+1D")
    for worker_id in cluster.workers:
        cluster.deliver_from_worker(worker_id)
    return cluster


def test_handed_off_request_runs_once_on_each_side(cluster: FakeCluster) -> None:
    cluster.event(RequestArrived(make()))
    cluster.settle()
    assert cluster.streams["r"] == [token("r", i) for i in range(4)]
    report = cluster.finished["r"].report
    assert [state for _, state in report.timeline] == [
        "reserving on decode-0",
        "prefilling on prefill-0",
        "decoding on decode-0",
        "finished length",
    ]
    assert report.num_attempts == 1 and cluster.central.counters.handoffs == 1


def test_a_refused_request_ends_once_and_is_counted(cluster: FakeCluster) -> None:
    class Refusing(FixedPathRouter):
        def plan(self, *args) -> Decision:
            return replace(super().plan(*args), refused=True, reason="no plan would keep it")

    cluster.central.router = Refusing()
    cluster.event(RequestArrived(make()))
    cluster.settle()
    finish = cluster.finished["r"]
    assert (finish.reason, finish.error) == (FinishReason.REFUSED, "no plan would keep it")
    assert finish.report.decision.refused and finish.report.num_output_tokens == 0
    assert cluster.central.counters.finished == {"refused": 1}
    assert cluster.central.queue_depth == cluster.central.num_open_legs == 0


def test_a_heartbeat_that_crossed_the_prefill_frees_no_blocks(cluster: FakeCluster) -> None:
    """The controller was held up: it reads, long after the grace, what the worker said before it had the message."""
    cluster.event(RequestArrived(make()))
    cluster.deliver_to_worker("decode-0")
    cluster.workers["prefill-0"].heartbeat()
    cluster.deliver_from_worker("decode-0")  # Reserved: the prefill is on its way
    cluster.deliver_to_worker("prefill-0")
    cluster.pass_time(10.0)
    cluster.deliver_from_worker("prefill-0")  # that heartbeat
    assert not any(isinstance(message, Abort) for message in pending(cluster, "decode-0"))
    cluster.workers["prefill-0"].work()  # a push into the reserved blocks
    cluster.settle()
    assert cluster.streams["r"] == [token("r", i) for i in range(4)]


def test_an_unanswered_abort_is_repeated(cluster: FakeCluster) -> None:
    arrive_and_prefill(cluster)
    cluster.event(RequestAborted("r"))
    cluster.to_workers["prefill-0"].clear()  # lost
    cluster.pass_time(10.0)
    cluster.workers["prefill-0"].legs.clear()  # it has ended, and the word of it was lost as well
    cluster.from_workers["prefill-0"].clear()
    cluster.workers["prefill-0"].heartbeat()
    cluster.deliver_from_worker("prefill-0")
    assert [type(message) for message in pending(cluster, "prefill-0")] == [Abort]
    cluster.deliver_to_worker("prefill-0")
    cluster.deliver_from_worker("prefill-0")
    assert [type(message) for message in pending(cluster, "decode-0")] == [Abort]


def test_reservation_is_aborted_only_after_its_writer_has_ended(cluster: FakeCluster) -> None:
    arrive_and_prefill(cluster)
    cluster.event(RequestAborted("r"))
    assert cluster.finished["r"].reason is FinishReason.ABORT  # the client has its answer at once
    assert [type(m) for m in pending(cluster, "prefill-0")] == [Abort]
    assert pending(cluster, "decode-0") == []  # its blocks may still be written
    cluster.deliver_to_worker("prefill-0")
    cluster.deliver_from_worker("prefill-0")
    assert [type(m) for m in pending(cluster, "decode-0")] == [Abort]
    cluster.settle()


def test_reservation_is_aborted_when_its_writer_dies(cluster: FakeCluster) -> None:
    arrive_and_prefill(cluster)
    cluster.crash("prefill-0")
    assert [type(m) for m in pending(cluster, "decode-0")] == [Abort, Reserve]  # and then the next attempt
    cluster.settle()
    assert cluster.streams["r"] == [token("r", i) for i in range(4)]
    assert cluster.finished["r"].report.num_attempts == 2


def test_end_at_the_first_token_skips_the_hand_off(cluster: FakeCluster) -> None:
    cluster.event(RequestArrived(make(max_tokens=1)))
    cluster.settle()
    assert cluster.finished["r"].reason is FinishReason.LENGTH
    assert cluster.streams["r"] == [token("r", 0)]
    assert cluster.central.counters.handoffs == 0


def test_lost_reserve_is_noticed_by_the_heartbeat(cluster: FakeCluster) -> None:
    cluster.event(RequestArrived(make()))
    assert [type(m) for m in pending(cluster, "decode-0")] == [Reserve]
    cluster.to_workers["decode-0"].clear()
    cluster.settle()
    assert cluster.finished["r"].reason is FinishReason.LENGTH
    assert cluster.finished["r"].report.num_attempts == 2


def test_repeated_failures_end_in_an_error_that_says_why() -> None:
    cluster = FakeCluster("1P+1D", num_blocks=2, reserve_timeout_s=1.0, queue_timeout_s=5.0, max_attempts=2)
    cluster.event(RequestArrived(make(prompt_len=100)))
    cluster.settle()
    assert cluster.finished["r"].reason is FinishReason.ERROR
    assert cluster.finished["r"].error


def test_silent_worker_is_restarted(cluster: FakeCluster) -> None:
    cluster.event(RequestArrived(make(strategy=Strategy.COLLOCATED)))
    cluster.pass_time(1.0)
    for _ in range(3):
        cluster.pass_time(40.0)
    assert cluster.workers["collocated-0"].incarnation >= 1
    cluster.settle()
    assert cluster.streams["r"] == [token("r", i) for i in range(4)]


def test_request_waits_for_the_first_worker() -> None:
    cluster = FakeCluster("1C")
    cluster.event(RequestArrived(make()))
    assert cluster.central.queue_depth == 1 and cluster.central.num_open_legs == 0
    cluster.settle()
    assert cluster.finished["r"].reason is FinishReason.LENGTH
