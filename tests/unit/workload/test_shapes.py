"""Shapes, and the requests made of them."""

from statistics import mean, median

import pytest

from nanopd.request import Slo
from nanopd.workload import PREFIX_BLOCK, SHAPES, RequestSpec, named_workload, token_ids, with_rate


@pytest.mark.parametrize("name", SHAPES)
def test_every_workload_is_whole_and_seeded(name: str) -> None:
    specs = named_workload(name, "poisson", 10.0, count=200, seed=1)
    assert specs == named_workload(name, "poisson", 10.0, count=200, seed=1)
    assert specs != named_workload(name, "poisson", 10.0, count=200, seed=2)
    assert [s.arrival_s for s in specs] == sorted(s.arrival_s for s in specs)
    assert all(len(s.prefix_hashes) == -(-s.num_prompt_tokens // PREFIX_BLOCK) for s in specs)


def test_the_original_s_lengths() -> None:
    short, long, mixed = (named_workload(name, "static", 0.0, count=2000) for name in ("short", "long", "mixed"))
    assert {64, 256} <= {s.num_prompt_tokens for s in short} <= set(range(64, 257))
    assert {s.num_prompt_tokens for s in long} <= set(range(1024, 2049))
    assert mean(s.num_prompt_tokens >= 1024 for s in mixed) == pytest.approx(0.5, abs=0.05)
    assert {s.max_tokens for s in mixed} == {s.num_output_tokens for s in mixed} == {128}


def test_lengths_of_chats_are_spread() -> None:
    specs = named_workload("sharegpt", "poisson", 10.0, count=4000)
    assert median(s.num_output_tokens for s in specs) == pytest.approx(140, rel=0.1)
    assert mean(s.num_output_tokens for s in specs) > 1.4 * 140
    assert all(s.num_output_tokens <= s.max_tokens for s in specs)


def test_agents_send_their_session_again() -> None:
    """Most turns find a prefix that an earlier request had, and prompts with equal hashes have equal tokens."""
    specs = named_workload("agentic", "poisson", 10.0, count=300)
    seen: set[int] = set()
    shared = 0
    for spec in specs:
        shared += sum(h in seen for h in spec.prefix_hashes)
        seen.update(spec.prefix_hashes)
    assert shared / sum(len(s.prefix_hashes) for s in specs) > 0.5
    by_start: dict[tuple[int, ...], RequestSpec] = {}
    pairs = 0
    for spec in specs:
        earlier = by_start.get(spec.prefix_hashes[:5])
        if earlier is not None:
            common = min(5 * PREFIX_BLOCK, spec.num_prompt_tokens, earlier.num_prompt_tokens)
            assert token_ids(spec, 1000)[:common] == token_ids(earlier, 1000)[:common]
            pairs += 1
        by_start[spec.prefix_hashes[:5]] = spec
        if pairs > 5:
            break
    assert pairs > 5


def test_tokens_depend_on_hashes_and_seed_alone() -> None:
    one = RequestSpec(0.0, 1300, 5, 10, prefix_hashes=(1, 2, 3))
    two = RequestSpec(9.0, 1200, 7, 10, prefix_hashes=(1, 2, 4))
    a, b = token_ids(one, 50_000), token_ids(two, 50_000)
    assert len(a) == 1300 and len(b) == 1200
    assert a[:1024] == b[:1024]
    assert a[1024:1200] != b[1024:1200]
    assert token_ids(one, 50_000, seed=1) != a
    assert max(token_ids(one, 10)) == 9
    bare = RequestSpec(0.0, 40, 5, 10)
    assert token_ids(bare, 1000) == token_ids(bare, 1000)


def test_three_tenants_with_their_own_objectives() -> None:
    specs = named_workload("mixed-slo", "poisson", 10.0, count=500)
    assert {s.tenant for s in specs} == {"chat", "code", "digest"}
    assert {s.slo for s in specs} == {Slo(500.0, 30.0), Slo(300.0, 60.0), Slo(10_000.0, 100.0)}
    same = named_workload("mixed-slo", "poisson", 10.0, count=50, slo=Slo(1.0, 2.0))
    assert {s.slo for s in same} == {Slo(1.0, 2.0)}


def test_bounds_and_rates() -> None:
    specs = named_workload("short", "poisson", 10.0, duration_s=20.0)
    assert 120 < len(specs) < 280
    faster = with_rate(specs, 40.0)
    assert (len(faster) - 1) / faster[-1].arrival_s == pytest.approx(40.0)
    with pytest.raises(ValueError, match="count or duration_s"):
        named_workload("short", "poisson", 1.0)
    with pytest.raises(ValueError, match="workload must be one of short"):
        named_workload("tall", "poisson", 1.0, count=1)
    with pytest.raises(ValueError, match="num_output_tokens <= max_tokens"):
        RequestSpec(0.0, 1, 5, 4)
