"""How the router foresees the scheduler's cutting of prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanopd.cost_model import StepModel
from nanopd.cost_model.step_model import StepTerms, Table
from nanopd.router.adaptive.chunks import prefill_costs
from nanopd.scheduler.plan import StepPlan, tokens_beside


@given(st.integers(0, 300), st.integers(1, 512), st.integers(0, 4000))
def test_cuts_as_the_scheduler_does(num_decodes: int, chunk: int, more: int) -> None:
    plan = StepPlan(2048)
    plan.num_tokens += num_decodes
    plan.budget -= num_decodes
    assert tokens_beside(num_decodes, chunk, chunk) == plan.chunk_len(chunk + 1 + more, chunk)


def model(*, ladder: tuple[int, ...]) -> StepModel:
    return StepModel(
        StepTerms(Table((1, 1001), (10.0, 60.0)), Table((0,), (0.0,)), ladder=ladder, prompt_ladder=ladder)
    )


def test_a_prompt_beside_decodes_fills_their_steps_to_a_graph() -> None:
    """492 tokens and 20 decodes make a step of 512; 512 tokens beside them would run as one of 640."""
    stairs = model(ladder=(128, 256, 384, 512, 640))
    own, stall = prefill_costs(stairs, 984, 0, 512, 20, 0)
    step = 10.0 + 511 * 0.05
    assert own == pytest.approx(2 * step)
    assert stall == pytest.approx(2 * (step - (10.0 + 127 * 0.05)))  # decodes alone run as 128


def test_the_last_chunk_is_as_long_as_what_is_left() -> None:
    own, stall = prefill_costs(model(ladder=()), 600, 0, 512, 0, 0)
    assert own == pytest.approx(10.0 + 511 * 0.05 + 10.0 + 87 * 0.05) and stall == 0.0
