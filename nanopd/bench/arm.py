"""What is measured."""

import shlex
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from nanopd.errors import ConfigError


class Arm(msgspec.Struct, frozen=True):
    """An engine that the benchmark starts with ``nanopd serve SERVE_OPTIONS``, or one that runs at ``base_url``."""

    name: str
    num_workers: int  # devices, for an engine that is not nanopd
    serve_options: tuple[str, ...] = ()
    base_url: str | None = None

    @property
    def description(self) -> str:
        return self.base_url or f"nanopd serve {shlex.join(self.serve_options)}"


def check_arms(arms: Sequence[Arm]) -> None:
    """Raises ConfigError unless names differ and every arm has the same number of workers."""
    if not arms:
        raise ConfigError("a benchmark needs at least one arm, got none")
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ConfigError(f"arms must have different names, got {', '.join(names)}")
    if any(one.num_workers != other.num_workers for one, other in pairwise(arms)):
        counts = ", ".join(f"{arm.name} with {arm.num_workers}" for arm in arms)
        raise ConfigError(
            f"arms must have equal numbers of workers (the one with more would win by that alone), got {counts}"
        )


def strategy_arms(num_workers: int, common: Sequence[str] = ()) -> list[Arm]:
    """The three strategies on equally many workers; half of them prefill where the stages are apart. Raises ConfigError."""
    if num_workers < 2 or num_workers % 2:
        raise ConfigError(f"the three strategies need an even number of workers, at least 2, got {num_workers}")
    half = num_workers // 2
    topologies = {
        "collocated": f"{num_workers}C",
        "disaggregated": f"{half}P+{half}D",
        "adaptive": f"{half}P+{half}D",
    }
    return [
        Arm(strategy, num_workers, (*common, "--workers", workers, "--strategy", strategy))
        for strategy, workers in topologies.items()
    ]
