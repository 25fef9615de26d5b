"""The thread behind the senders that copy by themselves."""

import threading
import time

import pytest

from nanopd.kv_transfer.push_thread import PushThread


@pytest.fixture
def thread():
    thread = PushThread("test")
    yield thread
    thread.close()


def wait_for(thread, num_results):
    results, deadline = [], time.monotonic() + 10
    while len(results) < num_results and time.monotonic() < deadline:
        results += thread.poll()
    return results


def test_pushes_are_carried_out_in_order_and_each_reported_once(thread):
    done = []
    for i in range(20):
        thread.start(f"p{i}", lambda i=i: (done.append(i) or i, None))
    results = wait_for(thread, 20)
    assert done == list(range(20))
    assert [(r.push_id, r.num_bytes, r.error) for r in results] == [(f"p{i}", i, None) for i in range(20)]
    assert all(r.transfer_ms >= 0 for r in results) and thread.poll() == []


def test_what_a_copy_raises_is_its_error_and_the_next_goes_on(thread):
    def fail():
        raise OSError("out of paper")

    thread.start("a", fail)
    thread.start("b", lambda: (7, None))
    first, second = wait_for(thread, 2)
    assert (first.num_bytes, first.error) == (0, "OSError: out of paper")
    assert (second.num_bytes, second.error) == (7, None)


def test_only_what_is_in_flight_can_be_cancelled(thread):
    thread.cancel("a")  # nobody has heard of it
    gate = threading.Event()

    def copy(push_id):
        gate.wait()
        return (0, "cancelled") if thread.is_cancelled(push_id) else (1, None)

    thread.start("a", lambda: copy("a"))
    thread.start("b", lambda: copy("b"))
    thread.cancel("b")
    gate.set()
    assert [r.error for r in wait_for(thread, 2)] == [None, "cancelled"]
    thread.cancel("b")  # it was reported
    thread.start("b", lambda: copy("b"))
    assert wait_for(thread, 1)[0].error is None


def test_calls_run_between_pushes_and_their_outcome_can_be_waited_for(thread):
    seen = []
    thread.start("a", lambda: (seen.append("a") or 0, None))
    call = thread.call(lambda: seen.append("call") or len(seen))
    thread.start("b", lambda: (seen.append("b") or 0, None))
    assert call.result(10) == 2
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0).result(10)
    assert len(wait_for(thread, 2)) == 2 and seen == ["a", "call", "b"]


def test_closing_cancels_what_is_left():
    thread, gate = PushThread("test"), threading.Event()
    thread.start("a", lambda: (gate.wait() and 0, "cancelled" if thread.is_cancelled("a") else None))
    threading.Timer(0.05, gate.set).start()
    thread.close()
    assert [r.error for r in thread.poll()] == ["cancelled"]
