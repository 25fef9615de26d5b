"""Speculative decoding on real KV: the tokens of plain decoding, greedy and sampled, with drafts that are right, wrong and in between."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from support.tiny_models import batch, block_table, dummy_folder, greedy_spec, piece

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.decoding import DraftContext, Drafter, PromptLookup
from nanopd.engine import DraftModel, Engine
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler

NUM_BLOCKS, BLOCK_SIZE = 64, 8


def load(folder: str) -> ModelRunner:
    cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS)
    config = EngineConfig(model=folder, load_format="dummy", dtype="float32", device="cpu", num_threads=1, cache=cache)
    return ModelRunner.load(config)


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> ModelRunner:
    return load(dummy_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def smaller(tmp_path_factory) -> ModelRunner:
    return load(dummy_folder(tmp_path_factory.mktemp("draft"), num_hidden_layers=1, hidden_size=32))


def engine_on(runner: ModelRunner, drafter: Drafter | None = None) -> Engine:
    scheduler = Scheduler(SchedulerConfig(max_num_seqs=8), BlockManager(NUM_BLOCKS, BLOCK_SIZE), runner.max_model_len)
    return Engine(scheduler, runner, VirtualClock(), drafter=drafter)


def generate(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    tokens: list[list[int]] = [[] for _ in requests]
    for index, request in enumerate(requests):
        engine.run_local(str(index), request)
    while engine.has_work:
        for output in engine.step().outputs:
            tokens[int(output.seq_id)] += output.token_ids
        engine.scheduler.check()
    assert engine.stats().num_free_blocks == NUM_BLOCKS
    return tokens


def requests(count: int, max_tokens: int, **params) -> list[Request]:
    return [
        Request("r", tuple(range(i % 7, 20 + i % 11)), SamplingParams(max_tokens=max_tokens, seed=i, **params))
        for i in range(count)
    ]


PARAMS = {
    "greedy": {"temperature": 0.0},
    "penalised": {"temperature": 0.0, "repetition_penalty": 1.3, "min_tokens": 12, "stop_token_ids": tuple(range(30))},
    "sampled": {"temperature": 1.0},
    "cut": {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
}


@pytest.mark.parametrize("name", PARAMS)
def test_tokens_are_those_of_plain_decoding(runner, smaller, name: str) -> None:
    asked = requests(12, 24, **PARAMS[name])
    plain = generate(engine_on(runner), asked)
    for drafter in (PromptLookup(4, min_ngram=1), DraftModel(engine_on(smaller), 3)):
        engine = engine_on(runner, drafter)
        assert generate(engine, asked) == plain
        assert 0 < engine.stats().num_draft_tokens > engine.stats().num_accepted_tokens


@pytest.mark.parametrize("name", PARAMS)
def test_the_model_as_its_own_draft_is_always_right(runner, name: str) -> None:
    asked = requests(6, 24, **PARAMS[name])
    engine = engine_on(runner, DraftModel(engine_on(load_again(runner)), 5))
    assert generate(engine, asked) == generate(engine_on(runner), asked)
    assert engine.stats().num_accepted_tokens == engine.stats().num_draft_tokens > 0
    assert engine.stats().num_steps < 12


def load_again(runner: ModelRunner) -> ModelRunner:
    """The same weights with a KV pool of their own."""
    from nanopd.kv_cache import KvCache

    decoder, pool = runner._decoder, runner.kv_cache.pool
    kv_cache = KvCache.allocate(decoder.config, NUM_BLOCKS, BLOCK_SIZE, pool.dtype, pool.device)
    return ModelRunner(decoder, kv_cache, runner.max_model_len, 64)


class Greedily:
    """Makes a draft model guess the most probable token where the request samples: right as often as that token is drawn."""

    def __init__(self, inner: Drafter) -> None:
        self._inner = inner

    def propose(self, contexts: Sequence[DraftContext]) -> Mapping[str, Sequence[int]]:
        greedy = SamplingParams(temperature=0.0)
        return self._inner.propose([replace(c, request=replace(c.request, sampling=greedy)) for c in contexts])


def test_sampled_tokens_follow_the_models_distribution(runner) -> None:
    """Chi-square of many seeds, at a position a draft stood in, against the probabilities that the model states."""
    prompt, top_k = tuple(range(5, 25)), 4
    greedy = SamplingParams(max_tokens=1, temperature=0.0, logprobs=top_k)
    engine = engine_on(runner)
    (first,) = generate(engine, [Request("r", prompt, greedy)])[0]
    engine.run_local("probe", Request("r", (*prompt, first), greedy))
    (probe,) = [output for _ in range(3) for output in engine.step().outputs]
    (entry,) = probe.logprobs
    assert entry is not None
    weights = {token: math.exp(logprob) for token, logprob in entry.top}
    engine = engine_on(runner, Greedily(DraftModel(engine_on(load_again(runner)), 1)))
    sampled = SamplingParams(max_tokens=3, temperature=1.0, top_k=top_k)
    drawn = generate(engine, [Request("r", prompt, replace(sampled, seed=seed)) for seed in range(800)])
    seconds = Counter(tokens[1] for tokens in drawn if tokens[0] == first)
    assert seconds.keys() == weights.keys() and sum(seconds.values()) > 150
    scale = sum(seconds.values()) / sum(weights.values())
    statistic = sum((seconds[token] - scale * weight) ** 2 / (scale * weight) for token, weight in weights.items())
    assert statistic < 16.3  # three degrees of freedom: exceeded once in a thousand
    assert 0 < engine.stats().num_accepted_tokens < engine.stats().num_draft_tokens


def test_rows_of_a_verified_draft_are_those_of_single_steps(runner) -> None:
    prompt, tokens = [5, 6, 7, 8, 9], []
    alone = block_table(0, 1)
    tokens += runner.submit(batch(piece("a", prompt, 0, alone, greedy_spec()))).result().token_ids
    while len(tokens) < 5:
        step = piece("a", tokens[-1:], len(prompt) + len(tokens) - 1, alone, greedy_spec())
        tokens += runner.submit(batch(step)).result().token_ids
    table = block_table(7, 3)
    runner.submit(batch(piece("b", prompt, 0, table))).result()
    draft = piece("b", tokens[:4], 5, table, greedy_spec(), verify=(greedy_spec(),) * 3)
    other = piece("c", prompt, 0, block_table(9, 10), greedy_spec())
    unsampled = piece("d", prompt, 0, block_table(11, 12))
    result = runner.submit(batch(other, draft, unsampled)).result()
    assert result.token_ids == [tokens[0], *tokens[1:5]]
