"""The engine on a GPU: captured steps against ordinary ones, and real text through the CUDA path against the float32 reference."""

import json
from pathlib import Path

import pytest
import torch
from support.tiny_models import dummy_folder

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]
BF16_GAP = 0.15  # how far apart two logprobs must be for bf16 to tell them apart


def load(model, load_format="auto", block_size=16, **options):
    cache = CacheConfig(block_size=block_size, num_blocks=8192 // block_size, enable_prefix_cache=False)
    scheduler = SchedulerConfig(max_num_seqs=24)
    config = EngineConfig(
        model, dtype="bfloat16", device="cuda", load_format=load_format, cache=cache, scheduler=scheduler, **options
    )
    return ModelRunner.load(config)


def serve(runner, prompts, num_tokens, chunk=None, depth=2, **params):
    blocks = BlockManager(runner.kv_cache.num_blocks, runner.kv_cache.block_size, False)
    scheduler = Scheduler(SchedulerConfig(max_num_seqs=24, prefill_chunk_size=chunk), blocks, runner.max_model_len)
    engine = Engine(scheduler, runner, VirtualClock(), depth)
    outputs = {str(index): [] for index in range(len(prompts))}
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(
            **{"temperature": 0.0, "seed": index, **params}, max_tokens=num_tokens, ignore_eos=True
        )
        engine.run_local(str(index), Request(str(index), tuple(prompt), sampling))
    while engine.has_work:
        for output in engine.step().outputs:
            outputs[output.seq_id] += output.token_ids
    return list(outputs.values())


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.9}, {"temperature": 1.0, "top_p": 0.9, "top_k": 30}, {"frequency_penalty": 1.0}]
)
def test_captured_steps_equal_ordinary_ones(tmp_path, params):
    sizes = {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "head_dim": 64,
        "num_attention_heads": 8,
        "vocab_size": 1024,
    }
    model = dummy_folder(tmp_path, model_type="qwen3", **sizes)
    prompts = [[(7 * i + j) % 90 for j in range(3 + 5 * i)] for i in range(11)]
    graphs = serve(load(model, "dummy"), prompts, 40, **params)
    ordinary = serve(load(model, "dummy", cuda_graphs=False), prompts, 40, **params)
    assert graphs == ordinary


@pytest.fixture(scope="module", params=[16, 32])
def smollm2(request):
    return load("smollm2-135m-instruct", block_size=request.param)


@pytest.mark.parametrize("chunk", [None, 64, 16, 7, 1])
def test_real_text_parts_from_the_reference_only_at_close_calls(smollm2, chunk):
    served = serve(smollm2, [prompt["prompt_ids"] for prompt in REFERENCE], 64, chunk)
    for prompt, tokens in zip(REFERENCE, served, strict=True):
        parting = next((i for i, (a, b) in enumerate(zip(tokens, prompt["output_ids"], strict=True)) if a != b), None)
        if parting is not None:
            assert prompt["top1_top2_logprob_gap"][parting] < BF16_GAP, f"token {parting} of {prompt['kind']}"
