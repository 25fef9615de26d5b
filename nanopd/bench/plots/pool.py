"""A record's cells as figures need them: repeats together, loads in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from nanopd.bench.cell import Cell, CellStats
from nanopd.bench.record import Record
from nanopd.bench.sample import Sample


@dataclass(frozen=True, slots=True)
class Group:
    """The repeats of one arm under one load."""

    arm: str
    label: str
    workload: str
    rate: float | None
    cells: tuple[Cell, ...]
    stats: tuple[CellStats, ...]

    @property
    def completed(self) -> list[Sample]:
        return [sample for cell in self.cells for sample in cell.measured if sample.is_completed]

    @property
    def measured(self) -> list[Sample]:
        return [sample for cell in self.cells for sample in cell.measured]

    def values(self, attribute: str) -> list[float]:
        """A measure of ``Sample``, where a request has it."""
        return [value for sample in self.completed if (value := getattr(sample, attribute)) is not None]

    def median_of(self, attribute: str) -> float | None:
        """A figure of ``CellStats``: the median of the repeats."""
        values = [value for one in self.stats if (value := getattr(one, attribute)) is not None]
        return median(values) if values else None


def groups(record: Record) -> list[Group]:
    """In order of load, then arm."""
    found: dict[tuple[object, ...], list[Cell]] = {}
    for cell in record.cells:
        found.setdefault((cell.key, cell.arm), []).append(cell)
    order = {arm.name: index for index, arm in enumerate(record.arms)}
    loads = list(dict.fromkeys(cell.key for cell in record.cells))
    loads.sort(key=lambda key: 0.0 if key[1] is None else key[1])  # stable: closed loads stay as they were run
    cells = sorted(found.values(), key=lambda group: (loads.index(group[0].key), order[group[0].arm]))
    return [
        Group(
            one[0].arm,
            one[0].load_label,
            one[0].workload,
            one[0].rate,
            tuple(one),
            tuple(record.stats(cell) for cell in one),
        )
        for one in cells
    ]


def loads_of(found: Sequence[Group]) -> list[str]:
    """Labels in order."""
    return list(dict.fromkeys(group.label for group in found))


def few(labels: Sequence[str], most: int = 4) -> list[str]:
    """At most so many, evenly chosen, first and last included: a figure is no wallpaper."""
    if len(labels) <= most:
        return list(labels)
    return [labels[round(index * (len(labels) - 1) / (most - 1))] for index in range(most)]


def rates_of(found: Sequence[Group], workload: str) -> list[float]:
    return sorted({group.rate for group in found if group.workload == workload and group.rate is not None})
