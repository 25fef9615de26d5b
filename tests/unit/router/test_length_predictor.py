"""The predictor: classes, censoring, drift, calibration; better than the original's bucketed mean."""

from pathlib import Path
from random import Random

import pytest

from nanopd.router.predictor import BucketedMean, LengthKey, LengthPredictor
from nanopd.router.predictor.scoring import Observation, Scores, score
from nanopd.workload import RequestSpec, named_workload, read_mooncake

DATA = Path(__file__).parents[2] / "data"


def observations(specs: list[RequestSpec]) -> list[Observation]:
    return [
        Observation(
            LengthKey(s.num_prompt_tokens, s.max_tokens, s.tenant),
            s.num_output_tokens,
            s.num_output_tokens >= s.max_tokens,
            s.arrival_s,
            s.prefix_hashes[: s.num_prompt_tokens // 512],
        )
        for s in specs
    ]


def drifting(count: int) -> list[Observation]:
    """Log-normal, the median falling from 400 to 50 and coming back."""
    rng, trace = Random(2), []
    for i in range(count):
        log_median = 3.9 + 2.1 * abs(i / count * 2.0 - 1.0)
        length = max(1, min(1024, round(rng.lognormvariate(log_median, 0.6))))
        trace.append(Observation(LengthKey(rng.randint(64, 2048), 1024), length, False, i * 0.2))
    return trace


def both(trace: list[Observation], **options: float) -> tuple[Scores, Scores]:
    return score(LengthPredictor(), trace), score(BucketedMean(**options), trace)


@pytest.mark.parametrize("workload", ["sharegpt", "mixed-slo"])
def test_calibrated_and_better_than_the_bucketed_mean(workload: str) -> None:
    ours, theirs = both(observations(named_workload(workload, "poisson", 5.0, count=2500, seed=1)))
    assert 0.85 <= ours.coverage <= 0.95
    assert ours.mae < 0.95 * theirs.mae
    assert ours.crps < 0.75 * theirs.crps


def test_follows_drift_better_than_a_sliding_mean() -> None:
    trace = drifting(3000)
    ours, sliding = both(trace, window=100)
    assert 0.85 <= ours.coverage <= 0.95
    assert ours.mae < 0.95 * sliding.mae
    assert ours.crps < 0.75 * sliding.crps
    assert ours.mae < 0.75 * score(BucketedMean(), trace).mae


def test_calibrated_on_a_real_trace() -> None:
    ours, theirs = both(observations(read_mooncake(DATA / "mooncake_conversation_500.jsonl")))
    assert 0.85 <= ours.coverage <= 0.95
    assert ours.mae < 1.02 * theirs.mae  # prompt lengths say next to nothing about these outputs
    assert ours.crps < 0.8 * theirs.crps


def test_learns_the_natural_length_from_cut_requests() -> None:
    """Two thirds of the clients cut at 64; those who do not must still be told the truth, which ignoring or counting the cut ones would miss."""
    rng, predictor = Random(5), LengthPredictor()
    for _ in range(600):
        natural = max(1, round(rng.lognormvariate(5.3, 0.5)))  # median 200
        max_tokens = rng.choice((64, 64, 4096))
        predictor.observe(LengthKey(100, max_tokens), min(natural, max_tokens), natural >= max_tokens)
    fresh = predictor.distribution(LengthKey(100, 8192))  # a class never seen: everyone's belief
    assert fresh.quantile(0.5) == pytest.approx(200, rel=0.15)
    assert predictor.distribution(LengthKey(100, 64)).quantile(0.5) == 64.0


def test_a_new_class_believes_what_its_parent_does() -> None:
    predictor = LengthPredictor()
    for _ in range(300):
        predictor.observe(LengthKey(100, 1024, "chat"), 300)
        predictor.observe(LengthKey(100, 1024, "code"), 20)
    new_prompt_length = predictor.distribution(LengthKey(8000, 1024, "code"))
    assert new_prompt_length.quantile(0.5) < 30
    new_tenant = predictor.distribution(LengthKey(100, 1024, "other"))
    assert 0.3 < new_tenant.survival(100) < 0.7
    assert predictor.num_observed(LengthKey(100, 1024, "code")) == 300
    assert predictor.num_observed(LengthKey(100, 1024, "other")) == 0


def test_age_rules_out_what_is_past() -> None:
    predictor = LengthPredictor()
    for i in range(400):
        predictor.observe(LengthKey(100, 1024), 10 if i % 2 else 500)
    belief = predictor.distribution(LengthKey(100, 1024))
    assert belief.conditional(50).quantile(0.5) > 450
    assert belief.conditional(50).mean_remaining > 350


def test_time_fades_the_past() -> None:
    predictor = LengthPredictor(half_life_s=60.0)
    for i in range(200):
        predictor.observe(LengthKey(100, 1024), 500, now=i * 0.01)
    for i in range(20):
        predictor.observe(LengthKey(100, 1024), 20, now=3600.0 + i * 0.01)
    assert predictor.distribution(LengthKey(100, 1024)).quantile(0.5) < 60


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="length must be at least 1"):
        LengthPredictor().observe(LengthKey(1, 1), 0)
    with pytest.raises(ValueError, match="since"):
        LengthPredictor().observe(LengthKey(1, 1), 5, since=6)
    with pytest.raises(ValueError, match="windows must be above 1"):
        LengthPredictor(windows=(1.0, 100.0))
