"""What many measurements come to: percentiles and their summary."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], q: float) -> float:
    """The ``q``-th percentile (0 to 100), linear between the two nearest ranks, as numpy's default."""
    if not values or not 0.0 <= q <= 100.0:
        raise ValueError(f"percentile needs values and q in [0, 100], got {len(values)} values and q={q}")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * q / 100.0
    lower = int(rank)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (rank - lower)


@dataclass(frozen=True, slots=True)
class Summary:
    """A distribution in a few numbers, in the unit of its values."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Summary | None":
        """The summary of the values that are there (None is left out); None when none is."""
        present = sorted(value for value in values if value is not None)
        if not present:
            return None
        p50, p90, p99 = (percentile(present, q) for q in (50, 90, 99))
        return cls(len(present), sum(present) / len(present), p50, p90, p99, present[-1])
