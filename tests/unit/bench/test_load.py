from pathlib import Path

import pytest

from nanopd.bench.load import Lengths, closed_load, open_load, trace_load
from nanopd.errors import ConfigError
from nanopd.request import Slo
from nanopd.workload import token_ids


def test_a_load_is_the_same_for_every_arm_and_another_at_every_rate() -> None:
    one, again, faster = (open_load("mixed", "poisson", rate, Lengths(), 7, 1.0, 20.0, 5.0) for rate in (1.0, 1.0, 2.0))
    assert one == again
    assert token_ids(one.specs[0], 1000, one.prompt_seed) == token_ids(again.specs[0], 1000, again.prompt_seed)
    assert one.prompt_seed != faster.prompt_seed  # or a prefix cache would know the prompts of the last rate
    assert all(spec.arrival_s <= 21.0 for spec in one.specs)


def test_lengths_are_cut_and_outputs_exact() -> None:
    load = closed_load("long", 20, 4, Lengths(0.25, 7), 0)
    assert all(256 <= spec.num_prompt_tokens <= 512 and spec.num_output_tokens == 7 for spec in load.specs)
    assert load.label == "long, 4 at a time"


def test_the_runs_objectives_reach_the_requests() -> None:
    load = closed_load("mixed-slo", 5, 1, Lengths(), 0)
    assert load.with_slo(Slo()) is load
    assert {spec.slo for spec in load.with_slo(Slo(50.0)).specs} == {Slo(50.0)}


def test_a_trace_keeps_its_times_or_is_stretched(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    path.write_text("".join(f'{{"timestamp": {t}, "input_length": 30, "output_length": 4}}\n' for t in (0, 1000, 4000)))
    own, stretched = (trace_load(path, None, rate, Lengths(), 0, 9.0) for rate in (None, 2.0))
    assert [spec.arrival_s for spec in own.specs] == [0.0, 1.0, 4.0]
    assert (own.rate, own.window_s, own.drain_s) == (0.5, 4.0, 9.0)
    assert stretched.specs[-1].arrival_s == stretched.window_s == 1.0
    assert stretched.rate == 2.0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: closed_load("tall", 1, 1, Lengths(), 0), "workload must be one of short, long"),
        (lambda: closed_load("short", 0, 1, Lengths(), 0), "num_requests and concurrency must be at least 1, got 0"),
        (lambda: open_load("short", "tidal", 1.0, Lengths(), 0, 0.0, 1.0, 0.0), "arrivals must be one of"),
        (lambda: open_load("short", "poisson", 1.0, Lengths(), 0, 0.0, 0.0, 0.0), "window_s above 0"),
        (lambda: open_load("short", "poisson", 0.001, Lengths(), 0, 0.0, 0.1, 0.0), "has no requests"),
        (lambda: Lengths(0.0), "prompt_scale must be above 0"),
        (lambda: trace_load(Path("nowhere.jsonl"), None, None, Lengths(), 0, 0.0), "cannot read the trace"),
    ],
)
def test_what_cannot_be_is_a_sentence(make, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()
