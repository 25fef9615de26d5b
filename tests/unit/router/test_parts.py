"""The parts of the adaptive router, and the view they read."""

from random import Random

import pytest

from nanopd.config import Role
from nanopd.cost_model import OnlineStepModel, StepModel
from nanopd.cost_model.step_model import StepTerms, Table
from nanopd.router import LegLoad, WorkerView
from nanopd.router.adaptive.lanes import Arrival, LanePlan, Load, turned_away, value_of
from nanopd.router.adaptive.prefill_queue import PrefillQueue, Prompt
from nanopd.router.adaptive.prefix_index import GRAIN, PrefixIndex, prefix_chain
from nanopd.router.adaptive.roles import RolePlanner
from nanopd.router.adaptive.shadow import Shadow, first_token_ms
from nanopd.router.adaptive.state import WorkerState
from nanopd.router.adaptive.utility import chance


@pytest.fixture
def model() -> StepModel:
    return StepModel(StepTerms(Table((1, 1001), (10.0, 60.0)), Table((0, 100), (0.0, 1.0))))  # 10 ms, 0.05 ms a token


def test_chance_falls_around_the_goal() -> None:
    assert chance(100.0, 100.0, 0.1) == 0.5
    assert chance(50.0, 100.0, 0.1) > 0.99 and chance(150.0, 100.0, 0.1) < 0.01
    assert chance(1e9, 1.0, 0.1) == 0.0 and chance(0.0, 1e9, 0.01) == 1.0


def test_prefill_queue_plays_the_scheduler(model) -> None:
    queue = PrefillQueue(model, 512, 2048)
    alone = queue.first_token_ms(0, 1024, 0, 0.0, 0.0, 0, 0)
    assert alone == pytest.approx(2 * (10.0 + 511 * 0.05))  # two chunks
    queue.add(Prompt("a", 0, 0, 0, 512), 0.0, 0.0)
    behind = queue.first_token_ms(0, 512, 0, 0.0, 0.0, 0, 0)
    both, single = 10.0 + 1023 * 0.05, 10.0 + 511 * 0.05
    assert behind == pytest.approx(single + both)  # the step under way ends first, then both chunks in one step
    assert queue.first_token_ms(0, 512, -1, 0.0, 0.0, 0, 0) == pytest.approx(
        single + both
    )  # who is overtaken fills the step
    deep = PrefillQueue(model, 512, 2048, depth=2)
    deep.add(Prompt("a", 0, 0, 0, 512), 0.0, 0.0)
    assert deep.first_token_ms(0, 512, 0, 0.0, 0.0, 0, 0) == pytest.approx(2 * single + both)
    queue.advance(0.030, 0, 0)
    assert queue.prompts  # its step takes 35.55 ms
    queue.advance(0.036, 0, 0)
    assert not queue.prompts


def test_the_twin_waits_for_a_worker_that_is_slower_than_its_model(model) -> None:
    """Else its queue would look empty while the worker's grows."""
    queue = PrefillQueue(model, 512, 2048)
    queue.add(Prompt("a", 0, 0, 0, 1024, is_open=True), 0.0, 0.0)
    queue.advance(10.0, 0, 0)
    assert [p.left for p in queue.prompts] == [512]  # the first chunk is over, the last one is not until that is told
    queue.add(Prompt("b", 0, 0, 0, 2048, is_open=True), 10.0, 0.0)
    queue.finish(queue.prompts[0], 10.02)
    assert [(p.request_id, p.left) for p in queue.prompts] == [("b", 1536)]  # it had a chunk in the same step
    queue.advance(10.05, 0, 0)
    assert queue.prompts[0].left == 1536  # its next step began at 10.02 and takes 35.55 ms
    queue.advance(10.06, 0, 0)
    assert queue.prompts[0].left == 1024


def test_settling_takes_prompts_out_in_the_order_they_ended(model) -> None:
    queue = PrefillQueue(model, 512, 2048)
    state = WorkerState(queue, OnlineStepModel(model), model)
    worker = WorkerView("a", Role.COLLOCATED, ready=True)
    for name in ("early", "late", "promised"):
        queue.add(Prompt(name, 0, 0, 0, 512), 0.0, 0.0)
        if name != "promised":
            worker.leg_opened((name, 0), LegLoad(True, True, 512))
    state.settle(worker, 0.01)
    assert state.num_promised_tokens == 512 and len(queue.prompts) == 3
    worker.leg_sampled(("early", 0), 1, 0.02)
    worker.leg_closed(("late", 0))
    state.settle(worker, 0.03)
    assert [p.request_id for p in queue.prompts] == ["promised"]


def test_a_long_queue_is_extrapolated(model) -> None:
    queue = PrefillQueue(model, 512, 2048)
    for i in range(400):
        queue.add(Prompt(f"p{i}", 0, 0, 0, 2048), 0.0, 0.0)
    expected = 400 * 2048 / 2048 * (10.0 + 2047 * 0.05)
    assert queue.first_token_ms(0, 512, 0, 0.0, 0.0, 0, 0) == pytest.approx(expected, rel=0.1)


def test_prefix_index_finds_the_longest_start_and_evicts() -> None:
    index, ids = PrefixIndex(), list(range(4 * GRAIN))
    chain = prefix_chain(ids)
    assert len(chain) == 4
    index.note("a", chain, 100 * GRAIN)
    index.note("b", chain[:2], 100 * GRAIN)
    assert index.matches(chain) == {"a": 4 * GRAIN, "b": 2 * GRAIN}
    assert index.matches(prefix_chain([9] + ids[1:])) == {}
    index.note("a", prefix_chain(list(range(10_000, 10_000 + 3 * GRAIN))), 4 * GRAIN)
    assert index.matches(chain)["a"] == GRAIN  # the end goes first
    index.forget("a")
    assert index.matches(chain) == {"b": 2 * GRAIN}


def test_first_token_shares_steps_then_waits() -> None:
    assert first_token_ms(0, 0.0, 40.0) == 40.0
    assert first_token_ms(1, 40.0, 40.0) == 80.0
    assert first_token_ms(1, 1000.0, 40.0) == 80.0  # a long prompt ahead does not stand in the way
    assert first_token_ms(9, 1000.0, 40.0) > 600.0


def test_future_harm_grows_with_the_prompt_and_spares_the_urgent() -> None:
    recent = [Arrival(0.01 * i, 40.0, 40.0, 800, 50.0, 150.0, 20.0) for i in range(100)]
    shadow = Shadow(recent, 150.0, 2, 1.0, 0.1)
    assert shadow.harm(0, 0.0, 500.0) > shadow.harm(0, 0.0, 20.0)
    assert shadow.harm(12, 5000.0, 500.0) < 0.1 * shadow.harm(0, 0.0, 500.0)  # they are late there anyway
    assert Shadow(recent, 20_000.0, 2, 1.0, 0.1).harm(0, 0.0, 500.0) == 0.0  # they overtake so patient a prompt


def plan_roles(model: StepModel, rate: float, tokens: int, *tpot_goals: float) -> RolePlanner:
    planner = RolePlanner(model)
    prefill_ms = tokens / 512 * 35.5
    workers = [WorkerView(f"w{i}", Role.COLLOCATED, ready=True) for i in range(4)]
    for i in range(400):
        goal = tpot_goals[i % len(tpot_goals)]
        planner.note(Arrival(i / rate, prefill_ms, prefill_ms, tokens, 100.0, 2000.0, goal))
        planner.update(workers, i / rate)
    return planner


def test_roles_appear_when_prefills_would_break_tpot(model) -> None:
    planner = plan_roles(model, 20.0, 1024, 14.0)
    assert len(planner.prefillers) == 2 and planner.gain > 0.1  # not heeding them would cost so many objectives
    assert not plan_roles(model, 20.0, 1024, 200.0).prefillers  # nobody minds
    assert not plan_roles(model, 0.5, 1024, 14.0).prefillers  # nothing to do


def test_roles_follow_the_load(model) -> None:
    planner = plan_roles(model, 20.0, 128, 14.0)
    before = len(planner.prefillers)
    workers = [WorkerView(f"w{i}", Role.COLLOCATED, ready=True) for i in range(4)]
    for i in range(400, 1600):  # prompts grow longer
        planner.note(Arrival(i / 20.0, 106.5, 106.5, 1536, 100.0, 2000.0, 14.0))  # 2.1 workers' time
        planner.update(workers, i / 20.0)
    assert before < len(planner.prefillers) >= 2


def worth(plan: LanePlan, num_workers: int, load: Load, model: StepModel) -> float:
    valuation = value_of(plan, num_workers, load, model)
    while True:
        try:
            next(valuation)
        except StopIteration as end:
            return end.value


def test_fewer_workers_feel_chance_more(model) -> None:
    """The same load on each: with two workers more answers than with sixteen meet too many prompts."""

    def together(num_workers: int) -> float:
        load = Load(2.0 * num_workers, tuple(Arrival(0.0, 71.0, 71.0, 1024, 100.0, 5000.0, 12.5) for _ in range(4)))
        return worth(LanePlan(0, float("inf")), num_workers, load, model)

    assert together(2) < together(4) < together(16)


@pytest.mark.parametrize("busy", [0.5, 0.9, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("patience", [0.5, 3.0])
def test_who_turns_away_as_in_barrers_queue(busy, patience) -> None:
    """One server, exponential services, balking at a fixed wait: simulated by its workload."""
    rng, workload, turned, count = Random(1), 0.0, 0, 40_000
    for _ in range(count):
        workload = max(0.0, workload - rng.expovariate(busy))
        if workload > patience:
            turned += 1
        else:
            workload += rng.expovariate(1.0)
    assert turned_away(busy, 1, patience) == pytest.approx(turned / count, abs=0.015)


def test_late_prompts_go_to_the_quiet_lane_where_that_pays(model) -> None:
    """One busy worker could not prefill all of this; the other three have room."""
    few = Load(6.0, tuple(Arrival(0.0, 200.0, 200.0, 2048, 20.0, 400.0, goal) for goal in (40.0, 40.0, 41.0)))
    assert worth(LanePlan(1, float("inf")), 4, few, model) > 0.8
    tight = Load(6.0, tuple(Arrival(0.0, 200.0, 200.0, 2048, 20.0, 400.0, 11.0) for _ in range(3)))
    assert worth(LanePlan(1, float("inf")), 4, tight, model) < 0.8  # passed on, they would stall the decodes there


def test_patient_requests_decode_beside_prefills_when_the_others_have_no_room(model) -> None:
    def gain(num_output: float) -> float:
        sample = tuple(Arrival(0.0, 71.0, 71.0, 1024, num_output, 2000.0, goal) for goal in (14.0, 500.0))
        load = Load(8.0, sample)
        return worth(LanePlan(2, 500.0), 4, load, model) - worth(LanePlan(2, float("inf")), 4, load, model)

    assert gain(400.0) < 0.05
    assert gain(1600.0) > 0.2


def test_the_view_counts_legs() -> None:
    worker = WorkerView("w", Role.COLLOCATED)
    worker.leg_opened(("a", 0), LegLoad(True, True, 100, num_cached_tokens=32))
    worker.leg_opened(("b", 0), LegLoad(True, False, 50))
    assert (worker.num_decoding, worker.num_context_tokens, worker.num_waiting_prompt_tokens) == (1, 100, 118)
    worker.leg_sampled(("a", 0), 1, 2.0)
    worker.leg_sampled(("a", 0), 1, 3.0)
    assert (worker.num_context_tokens, worker.num_waiting_prompt_tokens) == (102, 50)
    assert worker.legs["a", 0].first_token_at == 2.0
    worker.leg_closed(("a", 0))
    worker.leg_closed(("b", 0))
    worker.leg_closed(("b", 0))  # a second time
    assert (worker.num_decoding, worker.num_context_tokens, worker.num_waiting_prompt_tokens) == (0, 0, 0)
