"""Forks share KV until they write: n completions of a prompt, and beams."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted_oracle import VOCAB_SIZE, sequential

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine
from nanopd.engine.scripted import ScriptedExecutor
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler

MAX_MODEL_LEN = 64


def make(
    num_blocks: int, block_size: int, depth: int = 1, prefix_cache: bool = False, max_num_seqs: int = 16
) -> Engine:
    scheduler = Scheduler(
        SchedulerConfig(max_num_seqs), BlockManager(num_blocks, block_size, prefix_cache), MAX_MODEL_LEN
    )
    return Engine(scheduler, ScriptedExecutor(num_blocks, block_size, VOCAB_SIZE), VirtualClock(), depth)


def sample(prompt: tuple[int, ...], seed: int, max_tokens: int) -> Request:
    return Request("r", prompt, SamplingParams(max_tokens=max_tokens, seed=seed, temperature=1.0))


def drain(engine: Engine, tokens: dict[str, list[int]]) -> int:
    """Runs to the end; returns the largest number of blocks in use."""
    peak = 0
    while engine.has_work:
        for output in engine.step().outputs:
            tokens.setdefault(output.seq_id, []).extend(output.token_ids)
        engine.scheduler.check()
        peak = max(peak, engine.scheduler.blocks.num_blocks - engine.stats().num_free_blocks)
    return peak


@settings(max_examples=150, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=20).map(tuple),
    fork_steps=st.lists(st.integers(1, 12), max_size=5),
    max_tokens=st.integers(2, 15),
    block_size=st.sampled_from([1, 4, 8]),
    num_blocks=st.integers(36, 80),
    depth=st.integers(1, 2),
    prefix_cache=st.booleans(),
    max_num_seqs=st.sampled_from([2, 16]),
)
def test_completions_of_one_prompt(
    prompt, fork_steps, max_tokens, block_size, num_blocks, depth, prefix_cache, max_num_seqs
) -> None:
    """Whenever the fork happens, each completion has the tokens it would have alone."""
    engine = make(num_blocks, block_size, depth, prefix_cache, max_num_seqs)
    requests = {f"s{i}": sample(prompt, i, max_tokens) for i in range(len(fork_steps) + 1)}
    engine.run_local("s0", requests["s0"])
    tokens: dict[str, list[int]] = {}
    for step in range(1, 13):
        for output in engine.step().outputs:
            tokens.setdefault(output.seq_id, []).extend(output.token_ids)
        for i, fork_step in enumerate(fork_steps, 1):
            if fork_step == step:
                engine.fork("s0", f"s{i}", requests[f"s{i}"])
        engine.scheduler.check()
    drain(engine, tokens)
    assert tokens == {name: sequential(request, MAX_MODEL_LEN)[0] for name, request in requests.items()}
    assert engine.stats().num_free_blocks == num_blocks


@pytest.mark.parametrize("depth", [1, 2])
def test_completions_share_the_prompt(depth: int) -> None:
    engine = make(64, 4, depth)
    prompt = tuple(range(30))
    engine.run_local("s0", sample(prompt, 0, 6))
    while not engine.step().outputs:
        pass
    for i in range(1, 4):
        engine.fork("s0", f"s{i}", sample(prompt, i, 6))
    peak = drain(engine, {})
    assert peak <= 7 + 4 * 2 + 1 < 4 * 9  # seven full prompt blocks once; two more each; one source of a copy


def test_beams_hold_and_fork() -> None:
    """Each round forks the survivors from held parents with a token of their own; the KV read is always the beam's own."""
    engine = make(32, 4)
    prompt = tuple(range(9))
    beams: dict[str, tuple[int, ...]] = {"b": ()}
    engine.prefill("b", sample(prompt, 0, 20))
    peak = 0
    for round_index in range(8):
        drawn: dict[str, int] = {}
        while engine.has_work:
            report = engine.step()
            drawn |= {output.seq_id: output.token_ids[0] for output in report.outputs}
            peak = max(peak, 32 - engine.stats().num_free_blocks)
            engine.scheduler.check()
        assert drawn.keys() == beams.keys()
        for name, outputs in beams.items():
            expected, _ = sequential(sample(prompt, 0, len(outputs) + 1), MAX_MODEL_LEN, outputs)
            assert drawn[name] == expected[-1]
        children = [
            (name, (*outputs, token)) for name, outputs in beams.items() for token in (drawn[name], round_index)
        ][:4]
        parents, beams = list(beams), {}
        for i, (parent, outputs) in enumerate(children):
            beams[f"b{round_index}.{i}"] = outputs
            engine.fork(parent, f"b{round_index}.{i}", sample(prompt, 0, 20), outputs, hold=True)
        for parent in parents:
            engine.release(parent)
    for name in beams:
        engine.abort(name)
        engine.release(name)
    engine.step()
    assert engine.stats().num_free_blocks == 32
    assert peak < 4 * engine.scheduler.blocks.blocks_for(9 + 8)


def test_a_fork_of_nothing_computes_everything() -> None:
    engine = make(32, 4)
    request = sample((1, 2, 3), 5, 4)
    engine.fork("gone", "a", request)
    tokens: dict[str, list[int]] = {}
    drain(engine, tokens)
    assert tokens["a"] == sequential(request, MAX_MODEL_LEN)[0]


def test_a_fork_with_other_tokens_shares_nothing() -> None:
    engine = make(32, 4)
    engine.run_local("a", sample((1, 2, 3, 4, 5), 5, 4))
    engine.step()
    other = sample((9, 2, 3, 4, 5), 6, 4)
    engine.fork("a", "b", other)
    tokens: dict[str, list[int]] = {}
    drain(engine, tokens)
    assert tokens["b"] == sequential(other, MAX_MODEL_LEN)[0]
