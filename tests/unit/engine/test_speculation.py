"""Draft, verify, roll back: plain decoding's tokens and blocks, in fewer steps."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.knowing_drafter import KnowingDrafter
from support.scripted_oracle import VOCAB_SIZE, sequential

from nanopd.batch import Batch
from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.decoding import Drafter, PromptLookup
from nanopd.engine import DraftModel, Engine, SeqOutput
from nanopd.engine.executor import StepHandle
from nanopd.engine.scripted import ScriptedExecutor
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler

MAX_MODEL_LEN = 64
PROMPT = tuple(range(9))


def make(
    drafter: Drafter | None = None,
    num_blocks: int = 64,
    prefix_cache: bool = False,
    max_model_len: int = MAX_MODEL_LEN,
    max_num_batched_tokens: int = 2048,
) -> Engine:
    config = SchedulerConfig(16, max_num_batched_tokens, watermark=0.0)
    scheduler = Scheduler(config, BlockManager(num_blocks, 4, prefix_cache), max_model_len)
    return Engine(scheduler, ScriptedExecutor(num_blocks, 4, VOCAB_SIZE), VirtualClock(), drafter=drafter)


def request(prompt: Sequence[int] = PROMPT, max_tokens: int = 20, **params) -> Request:
    return Request("r", tuple(prompt), SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.0, **params}))


def knowing(requests: Mapping[str, Request], num_draft_tokens: int, wrong_every: int) -> KnowingDrafter:
    outputs = {key: sequential(request, MAX_MODEL_LEN)[0] for key, request in requests.items()}
    return KnowingDrafter(outputs, num_draft_tokens, wrong_every)


def drain(engine: Engine) -> dict[str, list[SeqOutput]]:
    outputs: dict[str, list[SeqOutput]] = {}
    for _ in range(500):
        for output in engine.step().outputs:
            outputs.setdefault(output.seq_id, []).append(output)
        engine.scheduler.check()
    assert not engine.has_work
    return outputs


def tokens_of(outputs: Sequence[SeqOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def test_a_right_draft_gives_all_its_tokens_and_one_more_in_a_step() -> None:
    engine = make(knowing({"s": request()}, 4, wrong_every=0))
    engine.run_local("s", request())
    outputs = drain(engine)["s"]
    assert tokens_of(outputs) == sequential(request(), MAX_MODEL_LEN)[0]
    assert [len(output.token_ids) for output in outputs] == [1, 5, 5, 5, 4]  # the last draft is cut: 20 in all
    assert [output.first_index for output in outputs] == [0, 1, 6, 11, 16]
    assert engine.stats().num_accepted_tokens == engine.stats().num_draft_tokens == 15
    assert (outputs[-1].times.num_draft_tokens, outputs[-1].times.num_accepted_tokens) == (15, 15)


@pytest.mark.parametrize(("wrong_every", "num_draft_tokens"), [(1, 4), (3, 7), (4, 2)])
def test_blocks_are_those_of_plain_decoding_at_the_same_length(wrong_every: int, num_draft_tokens: int) -> None:
    free_at: dict[int, int] = {}
    plain = make()
    plain.run_local("s", request())
    length = 0
    while plain.has_work:
        length += sum(len(output.token_ids) for output in plain.step().outputs)
        free_at[length] = plain.stats().num_free_blocks
    engine = make(knowing({"s": request()}, num_draft_tokens, wrong_every))
    engine.run_local("s", request())
    length, num_steps = 0, 0
    while engine.has_work:
        length += sum(len(output.token_ids) for output in engine.step().outputs)
        num_steps += 1
        assert engine.stats().num_free_blocks == free_at[length], f"blocks of a wrong guess are kept at {length}"
    assert length == 20 and (num_steps < 20 or wrong_every == 1)


def test_rejected_guesses_leave_no_trace_in_the_prefix_cache() -> None:
    engine = make(knowing({"s": request()}, 6, wrong_every=3), prefix_cache=True)
    engine.run_local("s", request())
    first = tokens_of(drain(engine)["s"])
    again = request([*PROMPT, *first[:-1]], max_tokens=1)
    engine.run_local("t", again)
    assert tokens_of(drain(engine)["t"]) == sequential(again, MAX_MODEL_LEN)[0] == first[-1:]
    assert engine.stats().prefix_hit_tokens == 24  # of 28: full blocks before the last token


def test_nothing_follows_a_stop_token_in_the_middle_of_a_draft() -> None:
    stop = sequential(request(), MAX_MODEL_LEN)[0][7]
    stopped = request(stop_token_ids=(stop,), logprobs=0)
    engine = make(knowing({"s": request()}, 6, wrong_every=0))
    engine.run_local("s", stopped)
    outputs = drain(engine)["s"]
    expected, reason = sequential(stopped, MAX_MODEL_LEN)
    assert tokens_of(outputs) == expected and outputs[-1].finish_reason == reason == "stop"
    assert [entry.token_id for output in outputs for entry in output.logprobs if entry] == expected
    assert engine.stats().num_free_blocks == 64


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(2, 20)), min_size=2, max_size=4),
    num_draft_tokens=st.sampled_from([3, 9]),
)
def test_nobody_is_preempted_for_a_guess(lengths, num_draft_tokens: int) -> None:
    """All guesses wrong, so that the steps are those of plain decoding, in as many blocks as that needs at its peak."""
    requests = {f"s{i}": request(range(prompt), tokens) for i, (prompt, tokens) in enumerate(lengths)}
    plain = make()
    for seq_id, each in requests.items():
        plain.run_local(seq_id, each)
    peak = 0
    while plain.has_work:
        plain.launch()
        peak = max(peak, 64 - plain.stats().num_free_blocks)
        plain.collect()
        plain.report()
    engine = make(knowing(requests, num_draft_tokens, wrong_every=1), num_blocks=peak)
    for seq_id, each in requests.items():
        engine.run_local(seq_id, each)
    for seq_id, outputs in drain(engine).items():
        assert tokens_of(outputs) == sequential(requests[seq_id], MAX_MODEL_LEN)[0]
    assert engine.stats().num_preemptions == 0


def test_nobody_waits_for_a_guess() -> None:
    requests = {f"s{i}": request([i], max_tokens=60) for i in range(3)}
    narrow = make(knowing(requests, 5, wrong_every=0), max_num_batched_tokens=3)
    for seq_id, each in requests.items():
        narrow.run_local(seq_id, each)
    for _ in range(20):  # one of them decodes and drafts while the prompts of the others come, a token at a time
        narrow.step()
    assert narrow.stats().num_running == 3 and not narrow.stats().num_waiting_tokens
    num_drafted = narrow.stats().num_draft_tokens
    assert {output.seq_id for output in narrow.step().outputs} == requests.keys()  # a budget of one token for each
    assert narrow.stats().num_draft_tokens == num_drafted


class SlowExecutor:
    """A scripted step that takes ``base_s`` and ``row_s`` for every token it feeds, on a virtual clock."""

    def __init__(self, executor: ScriptedExecutor, clock: VirtualClock, base_s: float, row_s: float) -> None:
        self._executor, self._clock = executor, clock
        self._base_s, self._row_s = base_s, row_s

    def submit(self, batch: Batch) -> StepHandle:
        num_rows = sum(piece.num_tokens for piece in batch.slices)
        self._clock.advance_to(self._clock.now() + self._base_s + self._row_s * num_rows)
        return self._executor.submit(batch)


@pytest.mark.parametrize(("row_s", "wrong_every"), [(1e-5, 0), (1e-5, 1), (6e-4, 2), (2e-3, 5), (2e-3, 1)])
def test_guessing_costs_little_and_gains_what_there_is_to_gain(row_s: float, wrong_every: int) -> None:
    """Steps of 1 ms and ``row_s`` for each row: as fast as four guesses at a time where they pay, hardly slower than plain decoding where not."""
    params = request(max_tokens=200)
    times: dict[str, float] = {}
    for arm in ("plain", "fixed", "adaptive"):
        clock, executor = VirtualClock(), ScriptedExecutor(64, 4, VOCAB_SIZE)
        config = SchedulerConfig(16, 2048, watermark=0.0, adapts_drafts=arm == "adaptive")
        outputs, _ = sequential(params, 256)
        drafter = None if arm == "plain" else KnowingDrafter({"s": outputs}, 4, wrong_every)
        scheduler = Scheduler(config, BlockManager(64, 4, False), 256)
        engine = Engine(scheduler, SlowExecutor(executor, clock, 1e-3, row_s), clock, drafter=drafter)
        engine.run_local("s", params)
        assert tokens_of(drain(engine)["s"]) == outputs
        times[arm] = clock.now()
    assert times["adaptive"] < 1.08 * min(times["plain"], times["fixed"])


def test_a_handed_off_sequence_is_drafted_too() -> None:
    outputs = sequential(request(), MAX_MODEL_LEN)[0]
    engine = make(knowing({"s": request()}, 4, wrong_every=0))
    engine.reserve("s", request())
    (reservation,) = engine.step().reserved
    memory = engine._executor.memory  # type: ignore[attr-defined]
    for position, token in enumerate(PROMPT):
        memory[reservation.block_ids[position // 4] * 4 + position % 4] = token
    engine.start("s", outputs[0])
    handed = drain(engine)["s"]
    assert tokens_of(handed) == outputs[1:] and len(handed) == 4


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "seed": 3}, {"presence_penalty": 0.5, "min_tokens": 9}])
def test_the_model_itself_as_its_draft_is_always_right(params: dict) -> None:
    draft = DraftModel(make(prefix_cache=True), 4)
    engine = make(draft)
    requests = {f"s{i}": request(PROMPT[i:], 11 + i, stop_token_ids=tuple(range(8)), **params) for i in range(4)}
    for seq_id, each in requests.items():
        engine.run_local(seq_id, each)
    outputs = drain(engine)
    for seq_id, each in requests.items():
        assert tokens_of(outputs[seq_id]) == sequential(each, MAX_MODEL_LEN)[0]
    stats = engine.stats()
    assert stats.num_accepted_tokens == stats.num_draft_tokens > 0
    assert draft._engine.stats().num_free_blocks == 64


def test_a_draft_model_with_less_room_than_the_model() -> None:
    """Of contexts it cannot hold it drafts nothing; those it can hold go faster all the same."""
    engine = make(DraftModel(make(num_blocks=4, max_model_len=16, prefix_cache=True), 4))
    requests = {"long": request([1] * 14, 20), "short": request([1, 2], 12)}
    for seq_id, each in requests.items():
        engine.run_local(seq_id, each)
    outputs = drain(engine)
    for seq_id, each in requests.items():
        assert tokens_of(outputs[seq_id]) == sequential(each, MAX_MODEL_LEN)[0]
    assert len(outputs["short"]) < 12 and len(outputs["long"]) > 15


def test_prompt_lookup_in_an_engine() -> None:
    engine = make(PromptLookup(3, min_ngram=1))
    tokens = sequential(request(), MAX_MODEL_LEN)[0]
    repeating = request([*PROMPT, *tokens, *PROMPT], max_tokens=12)
    engine.run_local("s", repeating)
    assert tokens_of(drain(engine)["s"]) == sequential(repeating, MAX_MODEL_LEN)[0]
    assert engine.stats().num_draft_tokens > 0


def test_a_drafter_allows_no_running_ahead() -> None:
    scheduler = Scheduler(SchedulerConfig(), BlockManager(4, 4), 16)
    with pytest.raises(ValueError, match="pipeline_depth must be 1 with a drafter, got 2"):
        Engine(scheduler, ScriptedExecutor(4, 4), VirtualClock(), 2, PromptLookup(3))
    with pytest.raises(ValueError, match="num_draft_tokens must be at least 1, got 0"):
        DraftModel(make(), 0)
