from hypothesis import given
from hypothesis import strategies as st

from nanopd.kv_transfer.transport import PoolHandle, PushResult
from nanopd.workers.handoff import Handoff, handoff_of_push

POOL = PoolHandle("loopback", "d", 1, 64, 4, 1, 1, "float32")


def make(num_tokens, first_block=0, block_size=4):
    num_blocks = -(-num_tokens // block_size)
    destination_ids = tuple(range(100, 100 + num_blocks - first_block))
    return Handoff("r#0", POOL, destination_ids, first_block, num_tokens, block_size)


def ok(push):
    return PushResult(push.push_id, 10 * len(push.source_ids), 1.0)


def test_full_blocks_go_as_they_are_computed_and_the_partial_one_last():
    handoff = make(num_tokens=10)
    table = [7, 3, 5]
    assert handoff.next_push(3, table) is None
    first = handoff.next_push(7, table)
    assert (first.source_ids, first.destination_ids) == ((7,), (100,))
    assert handoff.next_push(7, table) is None
    last = handoff.next_push(10, table)
    assert (last.source_ids, last.destination_ids) == ((3, 5), (101, 102))
    assert handoff.ended(ok(first)) and not handoff.is_complete
    assert not handoff.ended(ok(first)), "a duplicate report"
    assert handoff.ended(ok(last)) and handoff.is_complete
    assert (handoff.num_bytes, handoff.transfer_ms) == (30, 2.0)
    assert handoff.source_ids == [7, 3, 5]


def test_resident_blocks_stay_where_they_are():
    handoff = make(num_tokens=10, first_block=2)
    assert handoff.next_push(8, [7, 3, 5]) is None
    assert not handoff.is_complete
    push = handoff.next_push(10, [7, 3, 5])
    assert (push.source_ids, push.destination_ids) == ((5,), (100,))


def test_a_prompt_that_is_resident_as_a_whole_moves_nothing():
    assert make(num_tokens=8, first_block=2).is_complete


def test_a_reservation_of_the_wrong_size_is_noticed():
    handoff = Handoff("r#0", POOL, (1, 2), 0, 10, 4)
    assert handoff.mismatch() == "expected 3 reserved blocks, got 2"
    assert make(10).mismatch() is None


def test_push_ids_lead_back_to_the_sequence():
    push = make(8).next_push(4, [0, 1])
    assert handoff_of_push(push.push_id) == "r#0"


@given(st.integers(1, 40), st.data())
def test_every_block_is_pushed_once_whatever_the_chunks(num_tokens, data):
    num_blocks = -(-num_tokens // 4)
    first_block = data.draw(st.integers(0, num_tokens // 4))
    handoff = make(num_tokens, first_block)
    table = data.draw(st.permutations(range(num_blocks)))
    ends = sorted(data.draw(st.lists(st.integers(1, num_tokens), max_size=6))) + [num_tokens]
    pushes = [push for end in ends if (push := handoff.next_push(end, table)) is not None]
    pairs = [pair for push in pushes for pair in zip(push.source_ids, push.destination_ids, strict=True)]
    assert pairs == list(zip(table[first_block:], handoff.destination_ids, strict=True))
    for push in data.draw(st.permutations(pushes)):
        assert not handoff.is_complete
        handoff.ended(ok(push))
    assert handoff.is_complete
