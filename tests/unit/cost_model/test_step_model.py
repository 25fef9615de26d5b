"""Features, the step model and its fit on known truths."""

from array import array
from random import Random

import pytest

from nanopd.batch import Batch, SeqSlice
from nanopd.cost_model import Ladders, StepFeatures, StepModel, StepSample, StepTerms, fit_step_model, median_error
from nanopd.cost_model.step_model import Table
from nanopd.engine.report import step_timing
from nanopd.errors import ConfigError

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def truth_ms(f: StepFeatures) -> float:
    """A device with a roofline: weights cost 4 ms however few tokens, flops 0.02 ms a token; decode graphs pad to the ladder."""
    num_tokens, num_decodes = f.num_tokens, f.num_decodes
    if f.num_prefill_tokens == 0:
        num_tokens = num_decodes = next(size for size in LADDER if size >= num_decodes)
    linear = max(4.0, 0.7 + 0.02 * num_tokens) + (0.3 if f.num_prefill_tokens else 0.0)
    return linear + 0.002 * num_decodes + 1e-6 * f.prefill_attention + 3.5e-5 * f.decode_context


def grid() -> list[StepFeatures]:
    decodes = [
        StepFeatures.of_decode(b, c) for b in (1, 2, 4, 8, 16, 24, 32, 48, 64, 100, 128, 256) for c in (128, 1024, 4096)
    ]
    prefills = [
        StepFeatures.of_prefill(t, c) for t in (16, 64, 128, 256, 512, 1024, 2048, 4096) for c in (0, 1024, 8192)
    ]
    mixed = [
        StepFeatures.of_prefill(t, 512) + StepFeatures.of_decode(b, 700) for t in (64, 256, 1024) for b in (4, 32, 128)
    ]
    return decodes + prefills + mixed


def measured(noise: float, seed: int = 0) -> list[StepSample]:
    rng = Random(seed)
    samples = [StepSample(f, truth_ms(f) * rng.gauss(1.0, noise)) for f in grid()]
    rng.shuffle(samples)
    return samples


@pytest.fixture(scope="module")
def model() -> StepModel:
    return fit_step_model(measured(0.01), Ladders(LADDER))


def random_steps(seed: int, count: int = 200) -> list[StepFeatures]:
    """Steps between the grid's points."""
    rng, steps = Random(seed), []
    for _ in range(count):
        decode = StepFeatures.of_decode(rng.randint(1, 256), rng.uniform(100, 4000))
        prefill = StepFeatures.of_prefill(rng.randint(16, 3000), rng.randint(0, 8000))
        steps.append(rng.choice((decode, prefill, decode + prefill)))
    return steps


def test_predicts_steps_it_has_not_seen(model: StepModel) -> None:
    unseen = [StepSample(f, truth_ms(f)) for f in random_steps(7)]
    assert median_error(model, unseen) < 0.02
    assert max(abs(model.predict_ms(s.features) / s.ms - 1.0) for s in unseen) < 0.15


def test_outliers_do_not_move_the_fit(model: StepModel) -> None:
    samples = measured(0.01)
    spoilt = [StepSample(s.features, s.ms * (6.0 if i % 11 == 0 else 1.0)) for i, s in enumerate(samples)]
    refit = fit_step_model(spoilt, Ladders(LADDER))
    assert median_error(refit, [StepSample(f, truth_ms(f)) for f in random_steps(8)]) < 0.03


def test_the_roofline_is_in_the_table(model: StepModel) -> None:
    """64 decodes beside a chunk of 512 cost 64 more tokens of it, not another reading of the weights."""
    chunk, decodes = StepFeatures.of_prefill(512), StepFeatures.of_decode(64, 500)
    extra = model.predict_ms(chunk + decodes) - model.predict_ms(chunk)
    assert extra == pytest.approx(truth_ms(chunk + decodes) - truth_ms(chunk), rel=0.25)
    assert extra < 0.65 * model.predict_ms(decodes)


def test_a_decode_step_costs_what_its_graph_costs(model: StepModel) -> None:
    base = StepFeatures(0, 0.0, 0, 33, 1000)
    assert model.predict_ms(base) == pytest.approx(model.predict_ms(StepFeatures(0, 0.0, 0, 64, 1000)))
    assert model.predict_ms(StepFeatures(0, 0.0, 0, 128, 1000)) > model.predict_ms(base)


def test_never_falls_as_work_grows(model: StepModel) -> None:
    for f in random_steps(9):
        for more in (StepFeatures.of_prefill(100, 50), StepFeatures.of_decode(5, 80)):
            if f.num_prefill_tokens or more.num_prefill_tokens == 0:
                assert model.predict_ms(f + more) >= model.predict_ms(f)


def test_dense_tables_agree_with_the_sparse_ones(model: StepModel) -> None:
    terms = model.terms
    for count in (1, 3, 17, 100, 4000, 4096, 9000):
        f = StepFeatures.of_prefill(count)
        expected = (
            terms.tokens.at(count) + terms.prefill_ms + terms.per_prefill_ms + terms.attention_ms * f.prefill_attention
        )
        assert model.predict_ms(f) == pytest.approx(expected)
    assert model.predict_ms(StepFeatures.of_decode(2000, 1)) == pytest.approx(
        terms.tokens.at(2000) + terms.decodes.at(2000) + terms.context_ms * 2000
    )
    assert model.predict_ms(StepFeatures()) == 0.0


def test_quantiles_cover_what_they_say() -> None:
    model = fit_step_model(measured(0.05), Ladders(LADDER))
    fresh = measured(0.05, seed=99)
    inside = [model.quantile_ms(s.features, 0.1) <= s.ms <= model.quantile_ms(s.features, 0.9) for s in fresh]
    assert 0.65 < sum(inside) / len(inside) < 0.95
    assert all(model.quantile_ms(f, 0.99) > model.quantile_ms(f, 0.5) for f in grid())


def test_counts_a_batch_as_the_engine_reports_it() -> None:
    table = array("i", [0])
    slices = (
        SeqSlice("a", (1,), 1, 40, table),
        SeqSlice("b", (1,), 1, 7, table),
        SeqSlice("c", (1,) * 5, 5, 0, table),
        SeqSlice("d", (1,) * 3, 3, 16, table),
    )
    batch = Batch(0, slices)
    features = StepFeatures.of_batch(batch)
    assert features == StepFeatures(8, 5 * 3.0 + 3 * 18.0, 2, 2, 49)
    assert features == StepFeatures.of_timing(step_timing(batch, 1.0))
    expected = (
        StepFeatures.of_prefill(5)
        + StepFeatures.of_prefill(3, 16)
        + StepFeatures.of_decode(1, 41)
        + StepFeatures.of_decode(1, 8)
    )
    assert features == expected


def test_refuses_what_cannot_be_fitted_or_tabled() -> None:
    with pytest.raises(ValueError, match="at least 4 measured steps, got 1"):
        fit_step_model(measured(0.0)[:1])
    with pytest.raises(ConfigError, match="must rise"):
        Table((1, 1), (0.0, 1.0))
    with pytest.raises(ConfigError, match="as many times as counts"):
        Table((1, 2), (0.0,))
    with pytest.raises(ConfigError, match="ratio_quantiles"):
        StepTerms(Table((1,), (1.0,)), Table((0,), (0.0,)), ratio_quantiles={"decode": (1.0,)})


def test_a_step_without_a_graph_takes_no_less_than_its_launch() -> None:
    model = StepModel(StepTerms(Table((1, 1001), (4.0, 24.0)), Table((0,), (0.0,)), launch_ms=10.0))
    short, long, decodes = StepFeatures.of_prefill(51), StepFeatures.of_prefill(801), StepFeatures.of_decode(51, 100)
    assert model.device_ms(short) == pytest.approx(5.0)
    assert model.predict_ms(short) == 10.0
    assert model.predict_ms(long) == model.device_ms(long) == pytest.approx(20.0)
    assert model.predict_ms(decodes) == pytest.approx(5.0)
    assert (model.launch_ms(short), model.launch_ms(decodes)) == (10.0, 0.0)


def test_a_jump_at_a_tiles_edge_is_found() -> None:
    """516 tokens take half as long again as 512, as matrix products of whole tiles do."""

    def step_ms(f: StepFeatures) -> float:
        return (6.0 if f.num_tokens <= 256 else 12.0 if f.num_tokens <= 512 else 18.0) + 1e-6 * f.prefill_attention

    samples = [
        StepSample(f, step_ms(f))
        for size in (64, 128, 256, 258, 384, 512, 516, 640, 1000)
        for f in (StepFeatures.of_prefill(size), StepFeatures.of_prefill(size, 4096))
    ]
    model = fit_step_model(samples)
    for size in (512, 516, 700):
        f = StepFeatures.of_prefill(size, 1024)
        assert model.predict_ms(f) == pytest.approx(step_ms(f), rel=0.02)


def test_a_step_with_prompts_costs_what_its_graph_costs() -> None:
    """Linear layers are padded to the graph's tokens, attention is not."""
    ladders = Ladders(prompt=(64, 256, 1024))

    def step_ms(f: StepFeatures) -> float:
        padded = next((size for size in ladders.prompt if size >= f.num_tokens), f.num_tokens)
        return 3.0 + 0.02 * padded + 1e-6 * f.prefill_attention

    chunks = [
        StepFeatures.of_prefill(size, cached) for size in (30, 64, 100, 256, 512, 1024, 3000) for cached in (0, 4096)
    ]
    model = fit_step_model([StepSample(f, step_ms(f)) for f in chunks], ladders)
    for size in (10, 64, 65, 250, 257, 1000, 2000):
        f = StepFeatures.of_prefill(size, 1024)
        assert model.predict_ms(f) == pytest.approx(step_ms(f), rel=0.02)
    assert model.terms.prompt_ladder == ladders.prompt
