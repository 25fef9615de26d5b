"""SmolLM2-135M in bfloat16 on a GPU, real weights and real text: greedy tokens follow the float32 reference wherever its choice is clear.

Where the streams part, the gap between the reference's two best tokens must be at most 0.15: bfloat16 may flip what is that close, nothing else.
Collocated and chunked runs, graphs and eager steps are held to the same rule.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.errors import UnknownModelError
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.weights import resolve_model
from nanopd.workers.wall_clock import WallClock

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]
MODEL = os.environ.get("NANOPD_TEST_GGUF", "smollm2-135m-instruct")
CLEAR_GAP = 0.15


@pytest.fixture(scope="module", params=[(True, 16), (True, 32), (False, 16)], ids=["graphs", "graphs-32", "eager"])
def runner(request):
    cuda_graphs, block_size = request.param
    try:
        resolve_model(MODEL)
    except UnknownModelError:
        pytest.skip("the embedded model is not installed")
    cache = CacheConfig(block_size=block_size, num_blocks=8192 // block_size)
    return ModelRunner.load(
        EngineConfig(model=MODEL, dtype="bfloat16", device="cuda", cuda_graphs=cuda_graphs, cache=cache)
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("chunk", [1, 7, 16, 64, None])
def test_greedy_tokens_follow_the_reference(runner, chunk, depth):
    blocks = BlockManager(runner.kv_cache.num_blocks, runner.kv_cache.block_size, chunk == 16)
    scheduler = Scheduler(
        SchedulerConfig(prefill_chunk_size=chunk, max_num_batched_tokens=512), blocks, runner.max_model_len
    )
    engine = Engine(scheduler, runner, WallClock(), depth)
    served = {}
    for index, prompt in enumerate(REFERENCE):
        params = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True, seed=0)
        engine.run_local(str(index), Request(str(index), tuple(prompt["prompt_ids"]), params))
        served[str(index)] = []
    while engine.has_work:
        for output in engine.step().outputs:
            served[output.seq_id] += output.token_ids
    num_equal = 0
    for index, prompt in enumerate(REFERENCE):
        tokens, expected = served[str(index)], prompt["output_ids"]
        assert len(tokens) == 64
        parted = next((i for i in range(64) if tokens[i] != expected[i]), None)
        if parted is None:
            num_equal += 1
        else:
            gap = prompt["top1_top2_logprob_gap"][parted]
            assert gap <= CLEAR_GAP, f"prompt {index} parts at token {parted}, where the reference's gap is {gap}"
    assert num_equal >= 1  # bfloat16 parts somewhere on most prompts, not on all
