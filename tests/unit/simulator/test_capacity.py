"""What 100 % load means."""

from nanopd.cost_model import bundled
from nanopd.simulator import capacity
from nanopd.workload import RequestSpec


def specs(*hashes: tuple[int, ...]) -> list[RequestSpec]:
    return [RequestSpec(float(i), 1024, 8, 8, prefix_hashes=chain) for i, chain in enumerate(hashes)]


def test_a_shared_start_is_computed_once() -> None:
    profile = bundled("h200_qwen3_8b")
    apart = capacity(profile, specs((1, 2), (3, 4), (5, 6)), 2)
    shared = capacity(profile, specs((1, 2), (1, 3), (1, 4)), 2)
    same = capacity(profile, specs((1, 2), (1, 2), (1, 2)), 2)
    assert apart < shared < same
    assert (
        capacity(profile, specs((1, 2), (3, 1), (4, 2)), 2) == apart
    )  # equal blocks elsewhere than at the start do not count
