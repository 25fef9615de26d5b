"""The scheduler's rules, one by one. A fake step answers every sampled row with the same token."""

import pytest

from nanopd.batch import Batch, StepResult
from nanopd.block_manager import BlockManager
from nanopd.config import SchedulerConfig
from nanopd.errors import InvalidRequestError
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.scheduler import LegKind, Scheduler

TOKEN = 50


def make(
    num_blocks: int = 64, block_size: int = 4, max_model_len: int = 64, prefix_cache: bool = False, **config
) -> Scheduler:
    config = {"max_num_seqs": 8, "max_num_batched_tokens": 16, "prefill_chunk_size": None, "watermark": 0.0} | config
    return Scheduler(SchedulerConfig(**config), BlockManager(num_blocks, block_size, prefix_cache), max_model_len)


def request(num_prompt: int = 4, priority: int = 0, eos: tuple[int, ...] = (), **params) -> Request:
    params = {"temperature": 0.0, "max_tokens": 8} | params
    return Request("r", tuple(range(num_prompt)), SamplingParams(**params), priority=priority, eos_token_ids=eos)


def add(
    scheduler: Scheduler, seq_id: str, kind: LegKind = LegKind.LOCAL, outputs: tuple[int, ...] = (), **of_request
) -> None:
    scheduler.add(seq_id, request(**of_request), kind, 0.0, outputs)


def answer(scheduler: Scheduler, batch: Batch) -> None:
    num_rows = sum(piece.sample is not None for piece in batch.slices)
    scheduler.update(StepResult([TOKEN] * num_rows, [None] * num_rows), 0.0)
    scheduler.check()


def step(scheduler: Scheduler) -> list[tuple[str, int, int]]:
    """Runs one step; its slices as (sequence, start, number of tokens)."""
    batch = scheduler.schedule(0.0)
    if batch is None:
        return []
    answer(scheduler, batch)
    return [(piece.request_id, piece.start, piece.num_tokens) for piece in batch.slices]


def test_decodes_come_first_and_prompts_fill_the_step() -> None:
    scheduler = make()
    add(scheduler, "a")
    assert step(scheduler) == [("a", 0, 4)]
    add(scheduler, "b", num_prompt=30)
    assert step(scheduler) == [("a", 4, 1), ("b", 0, 15)]
    assert step(scheduler) == [("a", 5, 1), ("b", 15, 15)]
    assert step(scheduler) == [("a", 6, 1), ("b", 30, 1)]


def test_chunks_are_bounded_by_the_chunk_size() -> None:
    scheduler = make(prefill_chunk_size=3)
    add(scheduler, "a", num_prompt=7)
    assert [step(scheduler) for _ in range(3)] == [[("a", 0, 3)], [("a", 3, 3)], [("a", 6, 1)]]


def test_one_token_chunks_stand_with_the_decodes() -> None:
    scheduler = make(prefill_chunk_size=1)
    add(scheduler, "a")
    add(scheduler, "b")
    step(scheduler)
    add(scheduler, "c", num_prompt=1)
    batch = scheduler.schedule(0.0)
    assert [piece.is_decode for piece in batch.slices] == [True, True, False]


def test_an_urgent_prompt_goes_before_the_chunks_of_those_admitted() -> None:
    scheduler = make(prefill_chunk_size=8)
    for seq_id in ("a", "b"):
        add(scheduler, seq_id, num_prompt=24)
    assert step(scheduler) == [("a", 0, 8), ("b", 0, 8)]
    add(scheduler, "urgent", num_prompt=12, priority=-1)
    assert step(scheduler) == [("urgent", 0, 8), ("a", 8, 8)]
    assert step(scheduler) == [("urgent", 8, 4), ("a", 16, 8), ("b", 8, 4)]


def test_priority_then_arrival() -> None:
    scheduler = make(max_num_seqs=1)
    for seq_id, priority in (("late", 1), ("first", 0), ("second", 0)):
        add(scheduler, seq_id, priority=priority, max_tokens=1)
    assert [step(scheduler)[0][0] for _ in range(3)] == ["first", "second", "late"]


def test_nobody_overtakes_the_head_of_the_queue() -> None:
    scheduler = make(num_blocks=8)
    add(scheduler, "running", num_prompt=16, max_tokens=4)
    step(scheduler)
    add(scheduler, "long", num_prompt=28, max_tokens=1)
    add(scheduler, "short", num_prompt=1, max_tokens=1)
    seen = [step(scheduler) for _ in range(6)]
    order = [seq_id for pieces in seen for seq_id, *_ in pieces if seq_id != "running"]
    assert order[0] == "long" and "short" in order


def test_the_watermark_keeps_blocks_for_running_sequences() -> None:
    scheduler = make(num_blocks=10, watermark=0.3)
    add(scheduler, "a", num_prompt=16)  # 4 of 10 blocks; alone, so the watermark does not count
    add(scheduler, "b", num_prompt=16)  # would leave 2
    assert [piece[0] for piece in step(scheduler)] == ["a"]
    assert [piece[0] for piece in step(scheduler)] == ["a"]
    scheduler.abort("a")
    assert [piece[0] for piece in step(scheduler)] == ["b"]


def test_the_latest_of_the_lowest_priority_is_preempted_and_keeps_its_tokens() -> None:
    scheduler = make(num_blocks=3, prefix_cache=True)
    add(scheduler, "low", priority=1)
    add(scheduler, "high")
    step(scheduler)
    assert [piece[0] for piece in step(scheduler)] == ["high"]  # one block was left
    assert scheduler.stats().num_preemptions == 1
    for _ in range(20):
        step(scheduler)
    low = [output for output in scheduler.outcomes.outputs if output.seq_id == "low"]
    assert [output.first_index for output in low] == list(range(8))
    assert low[-1].finish_reason is FinishReason.LENGTH and low[-1].times.num_preemptions >= 1


def test_a_preempted_sequence_recomputes_from_the_prefix_cache() -> None:
    scheduler = make(num_blocks=3, prefix_cache=True)
    add(scheduler, "a", max_tokens=4)
    add(scheduler, "b", max_tokens=4)
    step(scheduler)
    step(scheduler)
    starts = {}
    for _ in range(8):
        for seq_id, start, num_tokens in step(scheduler):
            starts.setdefault(seq_id, []).append((start, num_tokens))
    assert (4, 1) in starts["b"], "its full block was still there"


@pytest.mark.parametrize("kind", list(LegKind))
def test_a_prompt_larger_than_the_pool_ends_with_an_error(kind: LegKind) -> None:
    scheduler = make(num_blocks=3)
    add(scheduler, "a", kind, num_prompt=13)
    [ended] = scheduler.outcomes.ended
    assert ended.error == "the sequence needs 4 KV blocks, but the pool has 3"
    assert not scheduler.has_work


def test_a_sequence_that_outgrows_the_pool_ends_with_an_error() -> None:
    scheduler = make(num_blocks=2)
    add(scheduler, "a", max_tokens=20)
    for _ in range(10):
        step(scheduler)
    assert [ended.error for ended in scheduler.outcomes.ended] == ["the sequence needs 3 KV blocks, but the pool has 2"]
    assert scheduler.stats().num_free_blocks == 2


def test_a_prompt_without_room_for_a_token_ends_with_an_error() -> None:
    scheduler = make(max_model_len=4)
    add(scheduler, "a", num_prompt=4)
    assert scheduler.outcomes.ended[0].error == "the prompt must be shorter than 4 tokens (max_model_len), got 4"


def test_bad_requests_are_refused() -> None:
    scheduler = make()
    with pytest.raises(InvalidRequestError, match="at least one token"):
        add(scheduler, "a", num_prompt=0)
    with pytest.raises(InvalidRequestError, match="seed must be set"):
        add(scheduler, "a", temperature=1.0)
    assert not scheduler.has_work


@pytest.mark.parametrize(
    ("params", "num_tokens", "reason"),
    [
        ({"max_tokens": 3}, 3, FinishReason.LENGTH),
        ({"max_tokens": None}, 60, FinishReason.LENGTH),
        ({"stop_token_ids": (TOKEN,)}, 1, FinishReason.STOP),
        ({"eos": (TOKEN,)}, 1, FinishReason.STOP),
        ({"eos": (TOKEN,), "ignore_eos": True}, 8, FinishReason.LENGTH),
        ({"max_tokens": 1, "stop_token_ids": (TOKEN,)}, 1, FinishReason.STOP),
    ],
)
def test_ends(params: dict, num_tokens: int, reason: FinishReason) -> None:
    scheduler = make()
    add(scheduler, "a", **params)
    for _ in range(70):
        step(scheduler)
    outputs = scheduler.outcomes.outputs
    assert [output.token_ids for output in outputs] == [(TOKEN,)] * num_tokens
    assert [output.finish_reason for output in outputs] == [None] * (num_tokens - 1) + [reason]


def test_stop_tokens_are_suppressed_below_min_tokens() -> None:
    scheduler = make()
    add(scheduler, "a", min_tokens=2, stop_token_ids=(9, 3))
    seen = []
    for _ in range(3):
        batch = scheduler.schedule(0.0)
        seen.append(batch.slices[0].sample.suppressed_token_ids)
        answer(scheduler, batch)
    assert seen == [(3, 9), (3, 9), ()]


def test_one_step_ahead_feeds_the_row_of_the_step_before() -> None:
    scheduler = make()
    for seq_id in "abc":
        add(scheduler, seq_id, num_prompt=3)
    scheduler.schedule(0.0)
    scheduler.abort("a")
    ahead = scheduler.schedule(0.0)
    assert [(piece.request_id, piece.previous_row, tuple(piece.token_ids)) for piece in ahead.slices] == [
        ("b", 1, ()),
        ("c", 2, ()),
    ]


def test_no_step_ahead_of_a_penalty_or_of_the_end() -> None:
    scheduler = make()
    add(scheduler, "history", presence_penalty=1.0)
    add(scheduler, "one", max_tokens=1)
    first = scheduler.schedule(0.0)
    assert len(first.slices) == 2
    assert scheduler.schedule(0.0) is None
    answer(scheduler, first)
    [piece] = scheduler.schedule(0.0).slices
    assert piece.request_id == "history" and list(piece.sample.output_token_ids) == [TOKEN]


def test_a_token_in_flight_is_fed_only_by_the_step_right_after() -> None:
    scheduler = make(max_num_batched_tokens=2)
    add(scheduler, "history", num_prompt=1, presence_penalty=1.0)
    first = scheduler.schedule(0.0)
    add(scheduler, "a", num_prompt=1)
    add(scheduler, "b", num_prompt=1)
    batches = [scheduler.schedule(0.0)]
    answer(scheduler, first)
    batches += [scheduler.schedule(0.0), scheduler.schedule(0.0)]
    names = [[piece.request_id for piece in batch.slices] for batch in batches]
    assert names == [
        ["a", "b"],
        ["history", "a"],
        ["a"],
    ]  # b's token was sampled two steps before: it must come home first
    assert batches[2].slices[0].previous_row == 1


def test_reservations_are_granted_in_order_and_count_as_places() -> None:
    scheduler = make(num_blocks=8, max_num_seqs=2)
    for seq_id in ("a", "b", "c"):
        add(scheduler, seq_id, LegKind.RESERVED, num_prompt=9)
    assert scheduler.has_work and scheduler.schedule(0.0) is None
    assert [(granted.seq_id, len(granted.block_ids)) for granted in scheduler.outcomes.reserved] == [("a", 3), ("b", 3)]
    assert not scheduler.has_work
    scheduler.start("a", TOKEN, 0.0)
    assert step(scheduler) == [("a", 9, 1)]
    scheduler.abort("b")
    step(scheduler)
    assert [granted.seq_id for granted in scheduler.outcomes.reserved] == ["a", "b", "c"]


def test_a_reservation_may_be_wholly_resident_but_is_known_only_once_started() -> None:
    scheduler = make(prefix_cache=True)
    add(scheduler, "a", LegKind.RESERVED, num_prompt=8)
    add(scheduler, "b", LegKind.RESERVED, num_prompt=8)
    scheduler.schedule(0.0)
    assert [granted.num_resident_tokens for granted in scheduler.outcomes.reserved] == [0, 0]
    scheduler.start("a", TOKEN, 0.0)
    add(scheduler, "c", LegKind.RESERVED, num_prompt=8)
    step(scheduler)
    granted = scheduler.outcomes.reserved[-1]
    assert (granted.seq_id, granted.block_ids, granted.num_resident_tokens) == ("c", (), 8)
    scheduler.start("c", TOKEN, 0.0)
    assert ("c", 8, 1) in step(scheduler)


def test_start_with_the_last_token_finishes_at_once() -> None:
    scheduler = make()
    add(scheduler, "a", LegKind.RESERVED, max_tokens=1)
    scheduler.schedule(0.0)
    scheduler.start("a", TOKEN, 0.0)
    [output] = scheduler.outcomes.outputs
    assert (output.token_ids, output.finish_reason) == ((), FinishReason.LENGTH)
    assert scheduler.stats().num_free_blocks == 64


def test_a_held_prefill_keeps_its_blocks_until_release() -> None:
    scheduler = make(prefill_chunk_size=6)
    add(scheduler, "a", LegKind.PREFILL, num_prompt=10)
    step(scheduler)
    step(scheduler)
    assert [computed.end for computed in scheduler.outcomes.computed] == [6, 10]
    [output] = scheduler.outcomes.outputs
    assert output.token_ids == (TOKEN,) and output.finish_reason is None
    assert step(scheduler) == [] and scheduler.stats().num_free_blocks == 61
    scheduler.release("a")
    scheduler.release("a")
    assert scheduler.stats().num_free_blocks == 64 and scheduler.outcomes.ended == []


def test_an_aborted_prefill_keeps_reported_blocks_until_release() -> None:
    scheduler = make(prefill_chunk_size=6)
    add(scheduler, "a", LegKind.PREFILL, num_prompt=10)
    step(scheduler)
    scheduler.abort("a")
    scheduler.abort("a")
    assert step(scheduler) == [] and scheduler.outcomes.ended == [] and scheduler.stats().num_free_blocks == 61
    scheduler.release("a")
    assert [ended.seq_id for ended in scheduler.outcomes.ended] == ["a"] and scheduler.stats().num_free_blocks == 64


def test_a_reported_prefill_is_never_preempted() -> None:
    scheduler = make(num_blocks=4, prefill_chunk_size=2)
    add(scheduler, "decode", num_prompt=8)
    for _ in range(3):
        step(scheduler)
    add(scheduler, "held", LegKind.PREFILL, num_prompt=8)
    step(scheduler)
    assert scheduler.stats().num_free_blocks == 0 and [computed.end for computed in scheduler.outcomes.computed] == [2]
    assert step(scheduler) == [("held", 2, 2)]  # though it came later, the decode gives way
    assert scheduler.stats().num_preemptions == 1
    for _ in range(3):
        step(scheduler)
    assert [computed.end for computed in scheduler.outcomes.computed] == [2, 4, 6, 8]
    assert not scheduler.has_work
    scheduler.release("held")
    for _ in range(12):
        step(scheduler)
    last = scheduler.outcomes.outputs[-1]
    assert (last.seq_id, last.first_index, last.finish_reason) == ("decode", 7, FinishReason.LENGTH)


def test_an_end_is_told_when_no_step_can_touch_the_blocks() -> None:
    scheduler = make()
    add(scheduler, "a")
    batch = scheduler.schedule(0.0)
    scheduler.abort("a")
    assert scheduler.outcomes.ended == [] and scheduler.stats().num_free_blocks == 63
    answer(scheduler, batch)
    assert [ended.seq_id for ended in scheduler.outcomes.ended] == ["a"]
    assert scheduler.outcomes.outputs == [] and scheduler.stats().num_free_blocks == 64


def test_outputs_given_at_admission_count() -> None:
    scheduler = make()
    add(scheduler, "a", outputs=(1, 2, 3), max_tokens=5)
    assert step(scheduler) == [("a", 0, 7)]
    step(scheduler)
    assert [output.first_index for output in scheduler.outcomes.outputs] == [3, 4]
    assert scheduler.outcomes.outputs[-1].finish_reason is FinishReason.LENGTH
    scheduler.outcomes.outputs.clear()
    add(scheduler, "b", outputs=(1, 2), max_tokens=2)
    [output] = scheduler.outcomes.outputs
    assert (output.first_index, output.token_ids, output.finish_reason) == (2, (), FinishReason.LENGTH)


def test_times_and_stats() -> None:
    scheduler = make(prefix_cache=True)
    scheduler.add("a", request(num_prompt=8, max_tokens=2), LegKind.LOCAL, 1.0)
    assert scheduler.stats().num_waiting_tokens == 8
    for start, end in ((1.5, 1.7), (1.7, 2.0)):
        batch = scheduler.schedule(start)
        scheduler.update(StepResult([TOKEN], [None]), end)
        assert len(batch.slices) == 1
    times = scheduler.outcomes.outputs[-1].times
    assert [round(value) for value in (times.queue_ms, times.prefill_ms, times.decode_ms)] == [500, 200, 300]
    add(scheduler, "b", num_prompt=8)
    scheduler.schedule(2.0)
    stats = scheduler.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens, stats.num_context_tokens) == (16, 4, 8)
