"""The adaptive router on views made by hand."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from nanopd.config import ClusterConfig, Role, Topology
from nanopd.config.cluster import POLICIES
from nanopd.cost_model import HardwareProfile, StepFeatures, StepModel, TransferModel, bundled
from nanopd.cost_model.step_model import StepTerms, Table
from nanopd.errors import ConfigError
from nanopd.messages import StepTiming
from nanopd.request import FinishReason, Request, SamplingParams, Slo, Strategy
from nanopd.router import ClusterView, LegLoad, WorkerView, build
from nanopd.router.adaptive import AdaptiveOptions, AdaptiveRouter
from nanopd.router.plan import Decision

GOAL = Slo(200.0, 12.0)


@pytest.fixture
def profile() -> HardwareProfile:
    """10 ms a step, 0.05 ms a token beyond 100."""
    terms = StepTerms(Table((1, 100, 1100), (10.0, 10.0, 60.0)), Table((0,), (0.0,)))
    return HardwareProfile(
        hardware="test",
        model="test",
        dtype="float32",
        source="made up",
        kv_bytes_per_token=100_000,
        num_blocks=1000,
        max_model_len=8192,
        step=StepModel(terms),
        transfer=TransferModel(0.1, 100.0),
        host_overhead_ms=0.0,
    )


def cluster(*ids: str, role: Role = Role.COLLOCATED) -> ClusterView:
    workers = {key: WorkerView(key, role, ready=True, num_blocks=1000, max_model_len=8192) for key in ids}
    return ClusterView(workers)


def request(name: str = "r", num_prompt: int = 400, slo: Slo = GOAL, first_id: int = 5) -> Request:
    ids = tuple(range(first_id, first_id + num_prompt))
    return Request(name, ids, SamplingParams(max_tokens=100, temperature=0.0, seed=0), slo=slo)


def place(router: AdaptiveRouter, view: ClusterView, ask: Request, now: float = 0.0):
    decision = router.plan(ask, Strategy.ADAPTIVE, 0, view, (), now)
    assert decision is not None
    return decision


def busy(view: ClusterView, worker: str, router: AdaptiveRouter, count: int) -> None:
    """``count`` requests decode on a worker, close to their TPOT goal."""
    for i in range(count):
        name = f"{worker}-{i}"
        router._admit(request(name, slo=Slo(200.0, 10.6)), 0, [])
        view.workers[worker].leg_opened((name, 0), LegLoad(False, True, 400))
        view.workers[worker].leg_sampled((name, 0), 1, 0.0)


def test_spares_those_who_decode(profile) -> None:
    view, router = cluster("a", "b"), AdaptiveRouter(profile)
    busy(view, "a", router, 8)
    decision = place(router, view, request())
    assert decision.chosen.prefill_worker == "b"
    on_a = next(c for c in decision.candidates if c.prefill_worker == c.decode_worker == "a")
    assert on_a.harm > decision.chosen.harm


def test_without_externality_only_its_own_fate_counts(profile) -> None:
    view = cluster("a", "b")
    router = AdaptiveRouter(profile, AdaptiveOptions(use_externality=False))
    busy(view, "a", router, 8)
    decision = place(router, view, request())
    assert all(c.harm is None or c.harm == 0.0 for c in decision.candidates)


def test_a_choice_counts_before_its_worker_knows(profile) -> None:
    view, router = cluster("a", "b"), AdaptiveRouter(profile)
    first = place(router, view, request("r1"))
    second = place(router, view, request("r2", first_id=5000))
    assert first.chosen.prefill_worker != second.chosen.prefill_worker


def test_without_reservation_it_does_not(profile) -> None:
    def queued(**options) -> int:
        view, router = cluster("a", "b"), AdaptiveRouter(profile, AdaptiveOptions(**options))
        chosen = place(router, view, request()).chosen
        return len(router._states[chosen.prefill_worker].queue.prompts)

    assert (queued(), queued(use_reservation=False)) == (1, 0)


def test_goes_where_its_prefix_is(profile) -> None:
    view, router = cluster("a", "b", "c"), AdaptiveRouter(profile)
    first = place(router, view, request("r1", num_prompt=1024))
    again = place(router, view, request("r2", num_prompt=1200), now=5.0)
    assert again.chosen.prefill_worker == first.chosen.prefill_worker
    assert again.chosen.num_cached_tokens == 1024


def test_says_that_it_counts_when_there_is_nothing_to_choose(profile) -> None:
    decision = place(AdaptiveRouter(profile), cluster("a"), request())
    assert decision.policy == "adaptive (fallback)" and "nothing to choose" in decision.reason


def live_steps(profile: HardwareProfile, pace: Callable[[int], float], count: int = 8) -> list[StepTiming]:
    """A heartbeat's; the ``i``-th took ``pace(i)`` times what the profile says."""
    kinds = (StepFeatures.of_decode(4, 100), StepFeatures.of_prefill(512) + StepFeatures.of_decode(4, 100))
    chosen = [(i, kinds[i % 2]) for i in range(count)]
    return [
        StepTiming(
            f.num_prefill_tokens,
            f.prefill_attention,
            f.num_decodes,
            f.decode_context,
            profile.step.predict_ms(f) * pace(i),
            f.num_prefills,
        )
        for i, f in chosen
    ]


def serve_with(
    router: AdaptiveRouter, view: ClusterView, steps: Callable[[], list[StepTiming]], rounds: int
) -> Decision:
    """A request each second, a heartbeat of every worker after it; the last decision."""
    for number in range(rounds):
        decision = place(router, view, request(f"r{number}"), now=number)
        assert view.step_model is not None
        for _ in view.workers:
            view.step_model.learn(steps())
    return decision


def test_says_that_it_counts_while_steps_are_not_to_be_foreseen(profile) -> None:
    rng = Random(2)
    decision = serve_with(
        AdaptiveRouter(profile),
        cluster("a", "b"),
        lambda: live_steps(profile, lambda _: 30.0 if rng.random() < 0.5 else 1.0),
        60,
    )
    assert decision.policy == "adaptive (fallback)" and "times what the model says" in decision.reason


def test_believes_a_model_that_is_right(profile) -> None:
    view = cluster("a", "b")
    decision = serve_with(AdaptiveRouter(profile), view, lambda: live_steps(profile, lambda _: 1.0), 30)
    assert decision.policy == "adaptive"
    model = view.step_model
    assert model is not None and model.pace == 1.0 and not model.is_corrected


@pytest.mark.parametrize("uses", [True, False])
def test_learns_from_the_workers_that_steps_take_twice_as_long(profile, uses: bool) -> None:
    """Then it foresees twice the time, and plans on. With the profile alone it could only count."""
    view, router = cluster("a", "b"), AdaptiveRouter(profile, AdaptiveOptions(use_live_steps=uses))
    first = place(router, view, request("first"))
    assert view.step_model is not None
    for _ in range(60):
        view.step_model.learn(live_steps(profile, lambda _: 2.0))
    last = place(router, view, request("last", first_id=1000), now=60.0)
    if uses:
        assert last.policy == "adaptive"
        assert last.chosen.ttft_ms == pytest.approx(2.0 * first.chosen.ttft_ms, rel=0.1)
    else:
        assert "2.0 times what the model says" in last.reason


def test_forced_strategies_are_obeyed(profile) -> None:
    router = AdaptiveRouter(profile)
    for strategy in (Strategy.COLLOCATED, Strategy.DISAGGREGATED):
        decision = router.plan(request(), strategy, 0, cluster("a", "b"), (), 0.0)
        assert decision is not None and decision.chosen.path == strategy.value


def test_learns_how_long_answers_are(profile) -> None:
    view, router = cluster("a", "b"), AdaptiveRouter(profile)
    before = router._admit(request("x"), 0, []).lengths.mean
    for i in range(50):
        place(router, view, request(f"r{i}"), now=float(i))
        router.finished(request(f"r{i}"), 5, FinishReason.STOP, float(i))
    assert router._admit(request("y"), 0, []).lengths.mean < min(before, 15.0)
    assert set(router._live) == {"x", "y"}  # those that ended are forgotten


def test_a_prompt_that_goes_on_from_another_is_known_by_its_answer(profile) -> None:
    view, router = cluster("a", "b"), AdaptiveRouter(profile)
    place(router, view, request("turn 1"))
    router.finished(request("turn 1"), 5, FinishReason.STOP, 0.0)
    for name, first_id, last_answer in (("turn 2", 5, 5), ("a stranger", 9000, 0)):
        place(router, view, request(name, num_prompt=800, first_id=first_id), 1.0)
        assert router._live[name].key.last_answer == last_answer
    place(
        router, view, request("turn 2", num_prompt=800), 2.0
    )  # tried again: what it has itself said so far is not taken for an earlier turn
    assert router._live["turn 2"].key.last_answer == 5


def test_avoids_workers_that_failed_the_request(profile) -> None:
    decision = AdaptiveRouter(profile).plan(request(), Strategy.ADAPTIVE, 0, cluster("a", "b", "c"), ("b",), 0.0)
    assert decision is not None
    assert all("b" not in (c.prefill_worker, c.decode_worker) for c in decision.candidates)


def test_the_earlier_deadline_goes_first_within_a_priority(profile) -> None:
    view, router = cluster("a", "b"), AdaptiveRouter(profile)
    patient = place(router, view, request("p", slo=Slo(20_000.0, 50.0)))
    urgent = place(router, view, request("u", first_id=5000))
    preferred = place(router, view, replace(request("f", slo=Slo(20_000.0, 50.0), first_id=9000), priority=-1))
    assert preferred.priority < urgent.priority < patient.priority
    extreme = place(router, view, replace(request("x", first_id=7000), priority=-(10**12)))
    assert -(2**63) < extreme.priority < preferred.priority


def test_who_is_late_anyway_waits_behind_the_others(profile) -> None:
    view, router = cluster("a", "b"), AdaptiveRouter(profile)
    late = place(router, view, request("late", num_prompt=4000, slo=Slo(20.0, 50.0)))
    patient = place(router, view, request("p", slo=Slo(20_000.0, 50.0), first_id=9000))
    assert "first token would be late" in late.reason and late.priority > patient.priority
    stubborn = AdaptiveRouter(profile, AdaptiveOptions(defers_late=False))
    kept = place(stubborn, cluster("a", "b"), request("late", num_prompt=4000, slo=Slo(20.0, 50.0)))
    assert kept.priority < patient.priority and "late" not in kept.reason


def test_refuses_only_if_told_and_only_what_states_objectives(profile) -> None:
    hopeless, nothing_asked = request("h", num_prompt=4000, slo=Slo(20.0, 50.0)), request("n", slo=Slo())
    assert not place(AdaptiveRouter(profile), cluster("a", "b"), hopeless).refused
    view, router = cluster("a", "b"), AdaptiveRouter(profile, AdaptiveOptions(rejects_hopeless=True))
    decision = place(router, view, hopeless)
    assert decision.refused and "no plan is likely to keep its objectives" in decision.reason and decision.candidates
    assert "h" not in router._live and not any(state.queue.prompts for state in router._states.values())
    assert not place(router, view, request("ok")).refused and not place(router, view, nothing_asked).refused
    going_on = router.plan(hopeless, Strategy.ADAPTIVE, 7, view, (), 0.0)  # tokens are out: it is served to its end
    assert going_on is not None and not going_on.refused


def test_without_the_posterior_an_answer_does_not_age(profile) -> None:
    for uses, grows in ((True, True), (False, False)):
        live = AdaptiveRouter(profile, AdaptiveOptions(use_posterior=uses))._admit(request(), 0, [])
        first = live.expected_total(0)
        assert (live.expected_total(round(first) - 1) > first + 1.0) is grows


def test_learns_from_requests_that_still_run(profile) -> None:
    view, router = cluster("a", "b"), AdaptiveRouter(profile)
    ask = replace(request("r0"), sampling=SamplingParams(max_tokens=2000, temperature=0.0, seed=0))
    before = router._admit(ask, 0, []).lengths.mean
    chosen = place(router, view, ask).chosen
    view.workers[chosen.decode_worker].leg_opened(("r0", router._live["r0"].attempt), LegLoad(True, True, 400))
    view.workers[chosen.decode_worker].leg_sampled(("r0", router._live["r0"].attempt), 1500, 1.0)
    for i in range(4):
        place(router, view, replace(ask, request_id=f"s{i}"), now=1.0 + i)
    assert router._live["r0"].told == 1500
    assert router._admit(replace(ask, request_id="x"), 0, []).lengths.mean > before


def test_without_a_profile_the_formula_decides(profile) -> None:
    decision = build(1000, "tpu", "adaptive").plan(request(), Strategy.ADAPTIVE, 0, cluster("a", "b"), (), 0.0)
    assert decision is not None and decision.policy == "original"


def test_auto_is_adaptive_where_a_profile_fits_and_else_says_so(profile) -> None:
    def policy_of(*args) -> str:
        decision = build(*args).plan(request(), Strategy.ADAPTIVE, 0, cluster("a", "b"), (), 0.0)
        assert decision is not None
        return decision.policy

    assert policy_of(1000, "cpu", "auto", profile) == "adaptive"  # given
    assert policy_of(bundled("cpu_smollm2").kv_bytes_per_token, "cpu", "auto") == "adaptive"  # bundled, of this model
    assert policy_of(1000, "cpu", "auto") == policy_of(1000, "tpu", "auto") == "original (no profile fits)"


def test_nobody_ready_means_no_plan(profile) -> None:
    view = cluster("a")
    view.workers["a"].ready = False
    for policy in POLICIES:
        assert build(1000, "cpu", policy, profile).plan(request(), Strategy.ADAPTIVE, 0, view, (), 0.0) is None


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_answers_with_ready_workers(profile, policy) -> None:
    view = ClusterView()
    for spec in Topology.parse("2C+1P+2D").workers():
        view.workers[spec.worker_id] = WorkerView(
            spec.worker_id, spec.role, ready=spec.worker_id != "decode-0", num_blocks=1000
        )
    router = build(1000, "cpu", policy, profile)
    for i in range(30):
        decision = router.plan(request(f"r{i}", 50 + 60 * i), Strategy.ADAPTIVE, 0, view, (), 0.1 * i)
        assert decision is not None and decision.reason
        assert {decision.chosen.prefill_worker, decision.chosen.decode_worker} <= set(view.workers) - {"decode-0"}


def test_unknown_policies_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="policy must be one of original, .*, got 'best'"):
        ClusterConfig(policy="best")
    with pytest.raises(ConfigError, match="on_hopeless must be one of serve, reject, got 'drop'"):
        ClusterConfig(policy="adaptive", on_hopeless="drop")
    with pytest.raises(ConfigError, match="needs policy 'adaptive'"):
        ClusterConfig(policy="original", on_hopeless="reject")
    with pytest.raises(ConfigError, match="policy must be one of original"):
        build(1000, "cpu", "best")
