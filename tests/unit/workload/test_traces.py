"""Trace files as published, and our own."""

from pathlib import Path

import pytest

from nanopd.errors import ConfigError
from nanopd.workload import named_workload, read_azure, read_mooncake, read_trace, write_trace

DATA = Path(__file__).parents[2] / "data"


def test_reads_mooncake_as_it_is() -> None:
    specs = read_trace(DATA / "mooncake_conversation_500.jsonl")
    assert len(specs) == 500
    first = specs[0]
    assert (first.arrival_s, first.num_prompt_tokens, first.num_output_tokens) == (0.0, 6758, 500)
    assert first.prefix_hashes == tuple(range(14))
    assert specs[-1].arrival_s == pytest.approx(150, abs=60)
    assert len(read_mooncake(DATA / "mooncake_conversation_500.jsonl", limit=7)) == 7


def test_reads_azure_as_it_is() -> None:
    specs = read_trace(DATA / "azure_conv_200.csv")
    assert len(specs) == 200
    assert (specs[0].arrival_s, specs[0].num_prompt_tokens, specs[0].num_output_tokens) == (0.0, 374, 44)
    assert specs[1].arrival_s == pytest.approx(50.995169 - 46.680590, abs=1e-5)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    specs = named_workload("mixed-slo", "bursty", 5.0, count=50, seed=4)
    write_trace(tmp_path / "t.jsonl", specs)
    again = read_trace(tmp_path / "t.jsonl")
    start = specs[0].arrival_s
    for before, after in zip(specs, again, strict=True):
        assert after.arrival_s == pytest.approx(before.arrival_s - start, abs=2e-6)
        for name in (
            "num_prompt_tokens",
            "num_output_tokens",
            "max_tokens",
            "tenant",
            "slo",
            "prefix_hashes",
            "priority",
        ):
            assert getattr(before, name) == getattr(after, name)


def test_says_which_line_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1}\n{"timestamp": 0}\n')
    with pytest.raises(ConfigError, match="t.jsonl, line 2: not a trace record"):
        read_trace(path)
    csv = tmp_path / "t.csv"
    csv.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n")
    with pytest.raises(ConfigError, match="t.csv, line 2: not a trace record"):
        read_azure(csv)
    with pytest.raises(ConfigError, match="must be a .jsonl or .csv file"):
        read_trace(tmp_path / "t.txt")
    with pytest.raises(ConfigError, match="cannot read the trace"):
        read_trace(tmp_path / "none.csv")
