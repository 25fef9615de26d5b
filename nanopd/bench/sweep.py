"""Rates from low to high until an arm is saturated, then closer around the edge: the highest rate that keeps the objectives. Resumable."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log, sqrt

from nanopd.bench.cell import Cell, CellStats
from nanopd.errors import ConfigError
from nanopd.request import Slo


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Which rates to try, per second. ``attainment``: the share of requests that must keep the objectives for a rate to pass."""

    start_rate: float = 0.5
    factor: float = 2.0
    min_rate: float = 0.0  # below it a window would hold too few requests to tell
    max_rate: float = 1000.0
    num_refinements: int = 2
    attainment: float = 0.9

    def __post_init__(self) -> None:
        if self.start_rate <= 0.0 or self.factor <= 1.0 or not 0.0 < self.attainment <= 1.0 or self.num_refinements < 0:
            raise ConfigError(
                "a sweep needs start_rate > 0, factor > 1, attainment in (0, 1] and num_refinements >= 0, got "
                f"{self.start_rate}, {self.factor}, {self.attainment} and {self.num_refinements}"
            )

    def next_rate(self, passed: Iterable[float], failed: Iterable[float], num_refined: int) -> float | None:
        """The rate to measure next, or None: the edge is known well enough.

        Up by ``factor`` until one fails (down, where the first one did), then the geometric middle of the edge.
        """
        best, worst = max(passed, default=None), min(failed, default=None)
        if best is None:
            if worst is None:
                return self.start_rate
            lower = _tidy(worst / self.factor)
            return lower if worst > self.start_rate / 64.0 and lower >= self.min_rate else None
        if worst is None:
            rate = _tidy(best * self.factor)
            return rate if rate <= self.max_rate else None
        return _tidy(sqrt(best * worst)) if num_refined < self.num_refinements and worst > best else None


def keeps_up(cell: Cell, stats: CellStats, slo: Slo, attainment: float) -> bool:
    """By its objectives where there are any; else by dropping nothing, and ending in the window nine tenths of what came in it."""
    if slo != Slo():
        return stats.slo_attainment is not None and stats.slo_attainment >= attainment
    return stats.num_dropped == 0 and stats.completed_per_s * cell.window_s >= 0.9 * stats.num_requests


def sweep_arm(
    plan: SweepPlan, known: Sequence[Cell], measure: Callable[[float], Cell], passes: Callable[[Cell], bool]
) -> float | None:
    """Measures what ``known`` cells leave open; returns the highest rate that passed, None if none did.

    ``measure`` keeps the cells it makes. Cells of an earlier run count as if measured now, so a sweep that was cut off goes on where it stopped.
    """
    results = {cell.rate: passes(cell) for cell in known if cell.rate is not None}
    while (rate := plan.next_rate(*_edges(results), _num_refined(plan, results))) is not None and rate not in results:
        results[rate] = passes(measure(rate))
    return max(_edges(results)[0], default=None)


def _edges(results: dict[float, bool]) -> tuple[list[float], list[float]]:
    """Rates that passed below the lowest failure, and those that failed: a pass above a failure is luck."""
    failed = [rate for rate, ok in results.items() if not ok]
    return [rate for rate, ok in results.items() if ok and rate < min(failed, default=rate + 1.0)], failed


def _num_refined(plan: SweepPlan, results: dict[float, bool]) -> int:
    """Rates off the ladder of ``factor``: the middles are half, a quarter, ... of a rung away from it."""
    rungs = [log(rate / plan.start_rate, plan.factor) for rate in results]
    return sum(abs(rung - round(rung)) > 0.04 for rung in rungs)


def _tidy(rate: float) -> float:
    """Three digits."""
    return float(f"{rate:.3g}")
