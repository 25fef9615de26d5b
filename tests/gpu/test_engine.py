"""The engine on a GPU: captured steps against ordinary ones."""

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


def load(model, **options):
    cache = CacheConfig(block_size=16, num_blocks=512, enable_prefix_cache=False)
    scheduler = SchedulerConfig(max_num_seqs=24)
    config = EngineConfig(
        model, dtype="bfloat16", device="cuda", load_format="dummy", cache=cache, scheduler=scheduler, **options
    )
    return ModelRunner.load(config)


def serve(runner, prompts, num_tokens, **params):
    blocks = BlockManager(runner.kv_cache.num_blocks, runner.kv_cache.block_size, False)
    scheduler = Scheduler(SchedulerConfig(max_num_seqs=24), blocks, runner.max_model_len)
    engine = Engine(scheduler, runner, VirtualClock(), 2)
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
    graphs = serve(load(model), prompts, 40, **params)
    ordinary = serve(load(model, cuda_graphs=False), prompts, 40, **params)
    assert graphs == ordinary
