"""SmolLM2-135M in float32 through engine and model runner: greedy tokens equal the recorded reference for every way of cutting the work.

The reference's smallest gap between its two best tokens is 0.003 over all steps, three times what logits may differ by: tokens must be equal.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]
CHUNKS = (1, 7, 16, 64, None)
BLOCK_SIZES = (8, 16, 32)
GRID = [(chunk, block_size, cache) for chunk in CHUNKS for block_size in BLOCK_SIZES for cache in (True, False)]
# Every pair of values of two options occurs; prompts of unlike length, the short ones and one of several blocks and chunks.
PAIRWISE = [(chunk, size, (i + j) % 2 == 0) for i, chunk in enumerate(CHUNKS) for j, size in enumerate(BLOCK_SIZES)]
FEW = (1, 3, 6, 7)


@dataclass
class Served:
    tokens: list[int]
    logprobs: list


@pytest.fixture(scope="module")
def runners():
    """One runner a block size; the KV pool of the one in use is cleared by nobody, as in life."""
    loaded = {}

    def get(block_size):
        if block_size not in loaded:
            cache = CacheConfig(block_size=block_size, num_blocks=4096 // block_size)
            loaded[block_size] = ModelRunner.load(
                EngineConfig(dtype="float32", device="cpu", num_threads=1, cache=cache)
            )
        return loaded[block_size]

    return get


def serve(runner, chunk, enable_prefix_cache, prompts, num_tokens, logprobs=None):
    blocks = BlockManager(runner.kv_cache.num_blocks, runner.kv_cache.block_size, enable_prefix_cache)
    scheduler = Scheduler(
        SchedulerConfig(prefill_chunk_size=chunk, max_num_batched_tokens=512), blocks, runner.max_model_len
    )
    engine = Engine(scheduler, runner, VirtualClock())
    served = {}

    def run(requests):
        for key, prompt in requests:
            params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True, seed=0, logprobs=logprobs)
            engine.run_local(key, Request(key, tuple(prompt["prompt_ids"]), params))
            served[key] = Served([], [])
        while engine.has_work:
            for output in engine.step().outputs:
                assert output.first_index == len(served[output.seq_id].tokens)
                served[output.seq_id].tokens += output.token_ids
                served[output.seq_id].logprobs += output.logprobs or ()

    run([(f"{i}", prompt) for i, prompt in enumerate(prompts)])
    if enable_prefix_cache:  # again, now that the cache holds them
        run([(f"{i}-again", prompt) for i, prompt in enumerate(prompts)])
    return served


def check(served, prompts, num_tokens):
    for key, result in served.items():
        prompt = prompts[int(key.split("-")[0])]
        assert result.tokens == prompt["output_ids"][:num_tokens], f"prompt {key} differs"


@pytest.mark.parametrize(("chunk", "block_size", "enable_prefix_cache"), PAIRWISE)
def test_pairs_of_options(runners, chunk, block_size, enable_prefix_cache):
    prompts = [REFERENCE[i] for i in FEW]
    check(serve(runners(block_size), chunk, enable_prefix_cache, prompts, 8), prompts, 8)


def test_all_prompts_to_the_end(runners):
    served = serve(runners(16), 64, False, REFERENCE, 64, logprobs=5)
    check(served, REFERENCE, 64)
    recorded = [
        (key, prompt["top5_logprobs"])
        for key, prompt in zip(served, REFERENCE, strict=True)
        if "top5_logprobs" in prompt
    ]
    assert len(recorded) == 3
    for key, steps in recorded:
        for entry, best in zip(served[key].logprobs, steps, strict=True):
            ours = dict(entry.top)
            common = [(ours[token], value) for token, value in best if token in ours]
            assert len(common) >= 4  # the fifth may tie with the sixth
            assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in common)


@pytest.mark.slow
@pytest.mark.parametrize(("chunk", "block_size", "enable_prefix_cache"), GRID)
def test_whole_grid(runners, chunk, block_size, enable_prefix_cache):
    check(serve(runners(block_size), chunk, enable_prefix_cache, REFERENCE, 64), REFERENCE, 64)
