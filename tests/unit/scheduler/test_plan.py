"""How long a chunk is."""

import pytest

from nanopd.batch import SeqSlice
from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine
from nanopd.engine.scripted import ScriptedExecutor
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.scheduler.plan import StepPlan


def plan_with(num_tokens, budget=2048):
    plan = StepPlan(budget)
    plan.add(None, SeqSlice("before", (), num_tokens, 0, None))
    return plan


@pytest.mark.parametrize(
    ("before", "num_left", "chunk_size", "expected"),
    [
        (0, 4096, 512, 512),
        (40, 4096, 512, 472),  # beside 40 decodes the step ends at 512
        (512, 4096, 512, 512),
        (0, 300, 512, 300),  # a prompt's end is not put off
        (40, 480, 512, 480),
        (40, 4096, 48, 48),  # 40 rows of a tile are no quarter of 48 tokens
        (0, 4096, 7, 7),
        (2040, 4096, 512, 8),  # what the budget leaves
        (200, 4096, 2048, 1848),
    ],
)
def test_a_chunk_ends_its_step_on_a_tile_s_edge(before, num_left, chunk_size, expected):
    assert plan_with(before).chunk_len(num_left, chunk_size) == expected


def test_every_token_is_fed_once_beside_decodes():
    config = SchedulerConfig(max_num_batched_tokens=640, prefill_chunk_size=256)
    scheduler = Scheduler(config, BlockManager(num_blocks=512, block_size=16), max_model_len=4096)
    engine = Engine(scheduler, ScriptedExecutor(512, 16), VirtualClock())
    sampling = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    for index in range(20):
        engine.run_local(f"short{index}", Request(f"short{index}", (index,) * 8, sampling))
    engine.step()
    engine.run_local("long", Request("long", tuple(range(900)), sampling))
    ends = []
    while engine.has_work:
        batch = engine.launch()
        ends += [(s.start, s.end) for s in batch.slices if s.request_id == "long" and s.num_tokens > 1]
        engine.collect()
        engine.report()
    assert ends == [(0, 236), (236, 472), (472, 708), (708, 900)]


@pytest.mark.parametrize(
    ("before", "budget", "expected"),
    [
        (0, 2048, 256),
        (160, 2048, 96),  # three eighths of 256 are left: the step still ends at 256
        (161, 2048, 351),
        (400, 512, 112),
        (500, 512, 12),  # the step's own bound
    ],
)
def test_prompts_are_spread_to_multiples(before, budget, expected):
    plan = plan_with(before, budget)
    plan.spread_prompts(256)
    assert plan.budget == expected


def test_spread_prompts_are_computed_whole_beside_decodes():
    config = SchedulerConfig(max_num_batched_tokens=512, prefill_chunk_size=None, step_multiple=64)
    scheduler = Scheduler(config, BlockManager(num_blocks=512, block_size=16), max_model_len=4096)
    engine = Engine(scheduler, ScriptedExecutor(512, 16), VirtualClock())
    for index in range(30):
        sampling = SamplingParams(max_tokens=60 - index, temperature=0.0, ignore_eos=True)
        engine.run_local(f"r{index}", Request(f"r{index}", (index,) * 50, sampling))
    fed, num_tokens = 0, 0
    while engine.has_work:
        batch = engine.launch()
        num_decodes = batch.num_decodes
        prompt_tokens = sum(s.num_tokens for s in batch.slices) - num_decodes
        fed += prompt_tokens
        if fed < 30 * 50 and prompt_tokens:
            assert prompt_tokens + num_decodes == -(-(num_decodes + 24) // 64) * 64
        engine.collect()
        num_tokens += sum(len(output.token_ids) for output in engine.report().outputs)
    assert fed == 30 * 50 and num_tokens == sum(60 - index for index in range(30))
