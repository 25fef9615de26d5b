"""The engine on a GPU: captured steps against ordinary ones."""

import pytest
import torch
from support.tiny_models import batch, block_table, dummy_folder, greedy_spec, piece

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.model_runner import ModelRunner
from nanopd.model_runner.step_graphs import StepGraphs
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "head_dim": 64,
    "num_attention_heads": 8,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
}
MAX_STEP_TOKENS = 320


def load(folder, **options):
    cache = CacheConfig(block_size=16, num_blocks=512)
    scheduler = SchedulerConfig(max_num_seqs=24, max_num_batched_tokens=MAX_STEP_TOKENS)
    config = EngineConfig(
        dummy_folder(folder, model_type="qwen3", **SIZES),
        dtype="bfloat16",
        device="cuda",
        load_format="dummy",
        cache=cache,
        scheduler=scheduler,
        **options,
    )
    return ModelRunner.load(config)


def serve(runner, prompts, num_tokens, *, depth=2, chunk=512, num_blocks=512, prefix_cache=False, aborts=(), **params):
    """Tokens by prompt. ``aborts``: (step, prompt) pairs."""
    blocks = BlockManager(num_blocks, runner.kv_cache.block_size, prefix_cache)
    config = SchedulerConfig(max_num_seqs=24, max_num_batched_tokens=MAX_STEP_TOKENS, prefill_chunk_size=chunk)
    scheduler = Scheduler(config, blocks, min(runner.max_model_len, 16 * num_blocks))
    engine = Engine(scheduler, runner, VirtualClock(), depth)
    outputs = {str(index): [] for index in range(len(prompts))}
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(
            **{"temperature": 0.0, "seed": index, **params}, max_tokens=num_tokens, ignore_eos=True
        )
        engine.run_local(str(index), Request(str(index), tuple(prompt), sampling))
    num_steps = 0
    while engine.has_work:
        for step, index in aborts:
            if step == num_steps:
                engine.abort(str(index))
        for output in engine.step().outputs:
            outputs[output.seq_id] += output.token_ids
        num_steps += 1
    return list(outputs.values()), scheduler


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.9}, {"temperature": 1.0, "top_p": 0.9, "top_k": 30}, {"frequency_penalty": 1.0}]
)
def test_captured_decode_steps_equal_ordinary_ones(tmp_path, params):
    captured, ordinary = load(tmp_path), load(tmp_path, cuda_graphs=False)
    captured._step_graphs = None  # prompts run unpadded in both
    prompts = [[(7 * i + j) % 90 for j in range(3 + 5 * i)] for i in range(11)]
    assert serve(captured, prompts, 40, **params)[0] == serve(ordinary, prompts, 40, **params)[0]


@pytest.fixture(scope="module")
def runners(tmp_path_factory):
    """A runner whose steps are graphs, and one that launches the same padded steps kernel by kernel."""
    folder = tmp_path_factory.mktemp("model")
    captured, launched = load(folder), load(folder)
    sizes = MAX_STEP_TOKENS, 24, launched.max_model_len
    launched._step_graphs = StepGraphs(launched._decoder, launched.kv_cache, *sizes, lambda work: work)
    return captured, launched


PROMPTS = [[(11 * i + j * j) % 97 for j in range(5 + 37 * i % 211)] for i in range(20)]
SHARED = [[j % 89 for j in range(64)] + prompt for prompt in PROMPTS]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk": 48},
        {"chunk": 7, "temperature": 0.8},
        {"prefix_cache": True, "chunk": 64},
        {"num_blocks": 60, "chunk": 100},
        {"aborts": ((2, 3), (5, 0), (9, 7), (9, 19)), "chunk": 64},
    ],
    ids=str,
)
def test_replayed_steps_equal_launched_ones(runners, depth, options):
    prompts = SHARED if options.get("prefix_cache") else PROMPTS
    captured, launched = (serve(runner, prompts, 24, depth=depth, **options) for runner in runners)
    assert captured[0] == launched[0]
    assert captured[1].stats().num_preemptions > 0 or "num_blocks" not in options


def test_padded_steps_give_what_unpadded_ones_give(runners, tmp_path):
    """Log-probabilities at every position: a padded product may be added up in another order, not more."""
    ordinary = load(tmp_path, cuda_graphs=False)
    prompt = [(3 * j * j + 1) % 997 for j in range(290)]
    tables = block_table(*range(20)), block_table(30)
    wants = {"prompt_logprobs": 0}
    steps = [
        batch(piece("b", [5, 6, 7], 0, tables[1], greedy_spec())),
        batch(piece("a", prompt[:200], 0, tables[0], logprob_targets=prompt[1:201], **wants)),
        batch(
            piece("b", [8], 3, tables[1], greedy_spec()),
            piece("a", prompt[200:290], 200, tables[0], logprob_targets=prompt[201:], **wants),
        ),
    ]
    for step in steps:
        padded, plain = runners[0].submit(step).result(), ordinary.submit(step).result()
        for name, entries in plain.prompt_logprobs.items():
            got = torch.tensor([entry.logprob for entry in padded.prompt_logprobs[name]])
            torch.testing.assert_close(got, torch.tensor([entry.logprob for entry in entries]), atol=0.1, rtol=0)
