"""Beam search on blocks: a plain search's hypotheses, whatever the pool, the neighbours and the end; blocks shared and given back."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.plain_beam_search import plain_beam_search
from support.scripted_oracle import VOCAB_SIZE, sequential

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.decoding import PromptLookup
from nanopd.engine import Engine, SeqOutput
from nanopd.engine.scripted import ScriptedExecutor, scripted_logprob
from nanopd.errors import InvalidRequestError
from nanopd.request import BeamParams, Request, SamplingParams

MAX_MODEL_LEN = 64
PROMPT = tuple(range(10))


def make(
    num_blocks=64, block_size=4, depth=1, prefix_cache=False, max_num_seqs=16, chunk_size=None, drafter=None
) -> Engine:
    from nanopd.scheduler import Scheduler

    config = SchedulerConfig(max_num_seqs, 64, chunk_size, watermark=0.0)
    scheduler = Scheduler(config, BlockManager(num_blocks, block_size, prefix_cache), MAX_MODEL_LEN)
    executor = ScriptedExecutor(num_blocks, block_size, VOCAB_SIZE)
    return Engine(scheduler, executor, VirtualClock(), depth, drafter)


def request(prompt=PROMPT, width=4, max_tokens=8, stop=(), **params) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_token_ids=tuple(stop))
    return Request("r", tuple(prompt), sampling, beam=BeamParams(width, **params))


def expected(request: Request) -> list[tuple[tuple[int, ...], float]]:
    def logprobs(tokens) -> np.ndarray:
        context = [*request.prompt_token_ids, *tokens]
        return np.array([scripted_logprob(context, token).logprob for token in range(VOCAB_SIZE)])

    params, sampling = request.beam, request.sampling
    assert params is not None and sampling.max_tokens is not None
    room = min(sampling.max_tokens, MAX_MODEL_LEN - len(request.prompt_token_ids))
    return plain_beam_search(
        logprobs, params.width, room, request.stop_ids, params.length_penalty, params.early_stopping
    )


def found(output: SeqOutput) -> list[tuple[tuple[int, ...], float]]:
    return [(hypothesis.token_ids, hypothesis.score) for hypothesis in output.hypotheses]


def run(engine: Engine, seq_id: str, request: Request) -> tuple[SeqOutput, int]:
    """The search's only output, and the largest number of blocks in use."""
    outputs, peak = [], 0
    engine.run_local(seq_id, request)
    while engine.has_work:
        report = engine.step()
        outputs += report.outputs
        assert not report.ended and not report.computed
        engine.scheduler.check()
        peak = max(peak, engine.scheduler.blocks.num_blocks - engine.stats().num_free_blocks)
    (output,) = outputs
    return output, peak


@pytest.mark.parametrize("depth", [1, 2])
def test_width_four_shares_the_prompt_and_gives_everything_back(depth: int) -> None:
    engine = make(depth=depth)
    output, peak = run(engine, "s", request(tuple(range(30)), max_tokens=12))
    assert found(output) == expected(request(tuple(range(30)), max_tokens=12))
    assert output.token_ids == output.hypotheses[0].token_ids and output.first_index == 0
    assert output.finish_reason == "length"
    independent = 4 * engine.scheduler.blocks.blocks_for(30 + 11)
    assert (
        peak <= 7 + 2 * 4 * 4 < independent
    )  # seven full prompt blocks once; parents and children of the newest positions
    assert engine.stats().num_free_blocks == 64


@settings(max_examples=150, deadline=None)
@given(
    searches=st.lists(
        st.tuples(
            st.lists(st.integers(0, 2), min_size=1, max_size=14),
            st.integers(1, 5),
            st.integers(1, 8),
            st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=10),
            st.sampled_from([0.0, 1.0]),
            st.sampled_from(["heuristic", "first", "never"]),
            st.integers(0, 8),
        ),
        min_size=1,
        max_size=3,
    ),
    others=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 10)), max_size=3),
    num_blocks=st.integers(6, 40),
    block_size=st.sampled_from([1, 4, 8]),
    depth=st.integers(1, 2),
    prefix_cache=st.booleans(),
    max_num_seqs=st.sampled_from([1, 3, 16]),
    chunk_size=st.sampled_from([None, 3]),
    drafts=st.booleans(),
)
@example(  # the neighbour preempts itself with its step in flight, again and again, while the search holds the blocks it needs
    searches=[([0, 0, 0], 2, 2, [], 0.0, "heuristic", 0)],
    others=[(2, 0)],
    num_blocks=6,
    block_size=1,
    depth=2,
    prefix_cache=False,
    max_num_seqs=1,
    chunk_size=None,
    drafts=False,
)
def test_searches_among_others(
    searches, others, num_blocks, block_size, depth, prefix_cache, max_num_seqs, chunk_size, drafts
) -> None:
    """Too few blocks, too few places, neighbours that preempt: the hypotheses stay the plain search's, or the search is refused by size."""
    drafter = PromptLookup(2, min_ngram=1) if drafts else None
    engine = make(num_blocks, block_size, 1 if drafts else depth, prefix_cache, max_num_seqs, chunk_size, drafter)
    beams = {
        f"b{i}": (step, request(prompt, width, tokens, stop, length_penalty=penalty, early_stopping=rule))
        for i, (prompt, width, tokens, stop, penalty, rule, step) in enumerate(searches)
    }
    plain = {
        f"s{i}": (step, Request("r", (1, 2), SamplingParams(max_tokens=tokens, temperature=0.0)))
        for i, (tokens, step) in enumerate(others)
    }
    tokens: dict[str, list[int]] = {key: [] for key in plain}
    answers, errors = {}, {}
    for step in range(3000):
        for key, (when, each) in (beams | plain).items():
            if when == step:
                engine.run_local(key, each)
        if step > 10 and not engine.has_work:
            break
        report = engine.step()
        for output in report.outputs:
            if output.seq_id in beams:
                assert output.seq_id not in answers
                answers[output.seq_id] = output
            else:
                tokens[output.seq_id] += output.token_ids
        errors |= {ended.seq_id: ended.error for ended in report.ended}
        engine.scheduler.check()
    else:
        raise AssertionError("a search starves")
    for key, (_, each) in beams.items():
        if key in errors:
            assert errors[key].startswith("the sequence needs")
            longest = len(each.prompt_token_ids) + each.sampling.max_tokens - 1
            assert longest > num_blocks * block_size and key not in answers
        else:
            assert found(answers[key]) == expected(each)
    for key, (_, each) in plain.items():
        assert key in errors or tokens[key] == sequential(each, MAX_MODEL_LEN)[0]
    assert engine.stats().num_free_blocks == num_blocks and len(engine.scheduler._roster) == 0


@pytest.mark.parametrize("steps_before", [0, 1, 3, 5])
@pytest.mark.parametrize("depth", [1, 2])
def test_an_aborted_search_ends_once_and_leaves_nothing(steps_before: int, depth: int) -> None:
    engine = make(depth=depth)
    engine.run_local("s", request())
    for _ in range(steps_before):
        assert not engine.step().outputs
    engine.abort("s")
    engine.abort("s")
    ended = []
    for _ in range(5):
        report = engine.step()
        assert not report.outputs
        ended += report.ended
    assert [(each.seq_id, each.error) for each in ended] == [("s", None)]
    assert not engine.has_work and engine.stats().num_free_blocks == 64
    output, _ = run(engine, "t", request())
    assert found(output) == expected(request())


def test_held_beams_give_their_blocks_up_when_nothing_else_can_run() -> None:
    """Blocks for two beams at a time: the others wait, and the round is completed all the same."""
    engine = make(num_blocks=7, block_size=4)
    wide = request(tuple(range(11)), width=5, max_tokens=10)
    output, _ = run(engine, "s", wide)
    assert found(output) == expected(wide)
    assert engine.stats().num_preemptions > 0


def test_a_search_that_outgrows_the_pool_says_so() -> None:
    engine = make(num_blocks=3, block_size=4)
    engine.run_local("s", request(max_tokens=8))
    ended = []
    while engine.has_work:
        report = engine.step()
        ended += report.ended
        assert not report.outputs
    assert [(each.seq_id, each.error) for each in ended] == [
        ("s", "the sequence needs 4 KV blocks, but the pool has 3")
    ]
    assert engine.stats().num_free_blocks == 3


def test_too_many_candidates_are_refused_when_the_search_is_opened() -> None:
    engine = make()
    with pytest.raises(InvalidRequestError, match="must be at most 20 together, got 18 and 3"):
        engine.run_local("s", request(width=18, stop=(1, 2, 3)))
    assert not engine.has_work
