"""The online correction: follows a device that changes, leaves a good fit alone."""

from random import Random

import pytest

from nanopd.cost_model import OnlineStepModel, StepFeatures, StepModel, StepTerms
from nanopd.cost_model.step_model import Table
from nanopd.messages import StepTiming

OFFLINE = StepModel(
    StepTerms(Table((1, 128, 1024), (4.0, 4.0, 22.0)), Table((0, 256), (0.0, 0.5)), 0.3, 0.0, 1e-6, 3.5e-5)
)


def steps(seed: int, count: int) -> list[StepFeatures]:
    rng = Random(seed)
    drawn = [StepFeatures.of_decode(rng.randint(1, 200), rng.uniform(100, 4000)) for _ in range(count)]
    return [f + StepFeatures.of_prefill(512, rng.randint(0, 4000)) if rng.random() < 0.3 else f for f in drawn]


def timing(f: StepFeatures, ms: float) -> StepTiming:
    return StepTiming(f.num_prefill_tokens, f.prefill_attention, f.num_decodes, f.decode_context, ms, f.num_prefills)


def errors(model: OnlineStepModel | StepModel, fresh: list[StepFeatures], truth: list[float]) -> float:
    return sum(abs(model.predict_ms(f) / ms - 1.0) for f, ms in zip(fresh, truth, strict=True)) / len(fresh)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_never_worse_than_a_right_fit(noise: float) -> None:
    """Stationary steps, as the fit says: after any number of them predictions err no more than the fit's, but for a hair."""
    rng, online, fresh = Random(1), OnlineStepModel(OFFLINE), steps(5, 100)
    truth = [OFFLINE.predict_ms(f) for f in fresh]
    for f in steps(2, 1500):
        online.learn([timing(f, OFFLINE.predict_ms(f) * max(0.3, rng.gauss(1.0, noise)))])
        assert errors(online, fresh[:5], truth[:5]) <= 0.2 * noise + 1e-9
    assert errors(online, fresh, truth) <= 0.1 * noise + 1e-9


def test_follows_one_part_that_has_become_slower() -> None:
    """Memory shared with another tenant: reading context takes twice as long, the rest does not."""
    rng, online = Random(3), OnlineStepModel(OFFLINE)

    def now_ms(f: StepFeatures) -> float:
        *rest, context = OFFLINE.parts_ms(f)
        return sum(rest) + 2.0 * context

    for f in steps(4, 1500):
        online.learn([timing(f, now_ms(f) * rng.gauss(1.0, 0.02))])
    fresh = steps(6, 200)
    truth = [now_ms(f) for f in fresh]
    assert online.is_corrected
    assert errors(OFFLINE, fresh, truth) > 0.15
    assert errors(online, fresh, truth) < 0.03
    assert online.factors[3] == pytest.approx(2.0, abs=0.1)
    assert online.factors[0] == pytest.approx(1.0, abs=0.05)
    assert online.fit.error < 0.03 < 0.15 < online.fit.offline_error
    assert online.fit.ratio > 1.15


def test_single_stalls_are_left_out_but_a_lasting_change_is_not() -> None:
    rng, online = Random(7), OnlineStepModel(OFFLINE)
    for i, f in enumerate(steps(8, 600)):
        stall = 20.0 if i % 20 == 19 else 1.0
        online.learn([timing(f, OFFLINE.predict_ms(f) * stall * rng.gauss(1.0, 0.02))])
    assert online.num_outliers >= 29
    assert online.factors[0] == pytest.approx(1.0, abs=0.05)
    for f in steps(9, 600):
        online.learn([timing(f, OFFLINE.predict_ms(f) * 3.0)])
    fresh = steps(10, 50)
    assert errors(online, fresh, [3.0 * OFFLINE.predict_ms(f) for f in fresh]) < 0.05


def test_a_heartbeat_of_many_steps_is_learnt_from_in_part() -> None:
    """And of few, in whole."""
    few, many = OnlineStepModel(OFFLINE), OnlineStepModel(OFFLINE)
    told = [timing(f, OFFLINE.predict_ms(f)) for f in steps(13, 60)]
    few.learn(told[:5])
    many.learn(told)
    assert few.fit.num_steps == 5
    assert many.fit.num_steps == 8
    assert few.ratio == many.ratio == pytest.approx(1.0)


def test_the_ratio_counts_the_steps_that_are_left_out() -> None:
    """Every other step a stall: none is learnt from, but who plans by the model should know."""
    online = OnlineStepModel(OFFLINE)
    told = [timing(f, OFFLINE.predict_ms(f) * (30.0 if i % 2 else 1.0)) for i, f in enumerate(steps(14, 8))]
    for _ in range(30):
        online.learn(told)
    assert online.num_outliers == 120
    assert online.predict_ms(steps(14, 1)[0]) == pytest.approx(told[0].step_ms)
    assert online.ratio > 10.0


def test_ignores_empty_steps_and_refuses_a_senseless_forgetting() -> None:
    online = OnlineStepModel(OFFLINE)
    online.learn([StepTiming(0, 0.0, 0, 0, 1.0)])
    assert online.num_observed == 0
    with pytest.raises(ValueError, match="forgetting"):
        OnlineStepModel(OFFLINE, 0.1)


def test_follows_the_pace_while_neighbours_come_and_go() -> None:
    """Every thirty steps the machine changes its pace: one step says much about the next."""
    rng, online, offline_error, online_error = Random(11), OnlineStepModel(OFFLINE), 0.0, 0.0
    for i, f in enumerate(steps(12, 1500)):
        pace = 1.25 if i // 30 % 2 else 0.9
        ms = OFFLINE.predict_ms(f) * pace * rng.gauss(1.0, 0.03)
        if i >= 500:
            offline_error += abs(OFFLINE.predict_ms(f) / ms - 1.0)
            online_error += abs(online.predict_ms(f) / ms - 1.0)
        online.learn([timing(f, ms)])
    assert online_error < 0.5 * offline_error
    assert online.fit.error < 0.1
    assert online.pace != 1.0
