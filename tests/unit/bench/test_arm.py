import pytest

from nanopd.bench.arm import Arm, check_arms, strategy_arms
from nanopd.errors import ConfigError


def test_the_three_strategies_have_equally_many_workers() -> None:
    arms = strategy_arms(4, ("--num-blocks", "64"))
    check_arms(arms)
    assert [arm.serve_options[-3] for arm in arms] == ["4C", "2P+2D", "2P+2D"]
    assert all(arm.serve_options[:2] == ("--num-blocks", "64") for arm in arms)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_odd_number_of_workers_cannot_be_halved(num_workers: int) -> None:
    with pytest.raises(ConfigError, match=f"even number of workers, at least 2, got {num_workers}"):
        strategy_arms(num_workers)


def test_unequal_arms_are_refused_and_told_why() -> None:
    with pytest.raises(ConfigError, match=r"equal numbers of workers \(.*\), got a with 1, b with 2"):
        check_arms([Arm("a", 1), Arm("b", 2)])


def test_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="different names"):
        check_arms([Arm("a", 1), Arm("a", 1)])
    with pytest.raises(ConfigError, match="at least one arm"):
        check_arms([])
