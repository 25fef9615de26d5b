"""``nanopd plan``: what is tried, and what it answers."""

import pytest

from nanopd.cli import main
from nanopd.cli.plan import LARGEST, _arms, _counts, _topology


def test_counts_rise_to_the_most_and_leave_out_what_cannot_bear_the_load() -> None:
    assert list(_counts(16, 0)) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert list(_counts(1024, 300)) == [384, 512, 768, 1024]
    assert list(_counts(5, 100)) == [5]


@pytest.mark.parametrize("count", [1, 2, 4, 16, 64])
def test_every_arm_has_all_workers(count: int) -> None:
    topologies = [_topology(num_prefill, count) for num_prefill, _policy in _arms(count)]
    assert topologies[0] == f"{count}C"
    for topology in topologies:
        assert sum(int("".join(filter(str.isdigit, part))) for part in topology.split("+")) == count


def test_a_small_rate_needs_one_worker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--rate", "1", "--slo", "2000,50", "--requests", "10"]) == 0
    assert "1C with policy collocated" in capsys.readouterr().out


def test_a_large_cluster_is_judged_by_a_part_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """64 workers: a quarter of them at a quarter of the rate."""
    options = ["--rate", "40", "--slo", "0.001,0.001", "--requests", "10", "--max-workers", str(4 * LARGEST)]
    assert main(["plan", *options]) == 1
    printed = capsys.readouterr().out
    assert f"{4 * LARGEST}C" in printed and f"{LARGEST}P+{3 * LARGEST}D" in printed
    assert "nothing up to 64 workers" in printed
