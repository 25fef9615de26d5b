"""Which differences between two measurements are larger than the noise.

Two kinds of noise are looked at, and a difference must exceed both:

* between requests: a bootstrap over them (Efron, 1979) gives the 99 % interval of the difference of the statistic; it must leave out
  zero. Where both sides had the same requests, a resample takes the same ones from both, so that long prompts are compared with long ones.
  A tail is compared only where enough requests lie in it: the bootstrap knows nothing beyond the largest value it was given.
* between stretches of time (or repeats, where there are at least three): neighbours on the machine, queues that build up. The statistic is
  taken in each stretch; the median absolute deviation, scaled to a standard deviation and divided by the root of the number of stretches,
  is the standard error; the difference must be more than twice that of both sides together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np

from nanopd.bench.cell import Cell
from nanopd.bench.record import Record
from nanopd.errors import ConfigError

_NUM_RESAMPLES = 2000
_NUM_STRETCHES = 5
_MIN_SAMPLES = 8
_MIN_SAMPLES_P90, _MIN_SAMPLES_P99 = 40, 400
_MAD_TO_SIGMA = 1.4826  # for a normal distribution

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure under one load, A against B."""

    load: str
    measure: str
    unit: str
    a: float
    b: float
    low: float  # 99 % interval of b - a, from the requests
    high: float
    drift: float  # twice the standard error of b - a, from the stretches of time
    num_a: int
    num_b: int

    @property
    def is_real(self) -> bool:
        """Larger than both kinds of noise."""
        return (self.low > 0.0 or self.high < 0.0) and abs(self.b - self.a) > self.drift

    @property
    def percent(self) -> float | None:
        return (self.b / self.a - 1.0) * 100.0 if self.a else None


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: a record's cells, of one arm or of all."""

    record: Record
    arm: str | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.record.arms]
        if self.arm is not None and self.arm not in names:
            raise ConfigError(f"arm must be one of {', '.join(names)}, got {self.arm!r}")

    def groups(self) -> dict[tuple[object, ...], list[Cell]]:
        """Cells by load, and by arm unless one was named; repeats together."""
        groups: dict[tuple[object, ...], list[Cell]] = {}
        for cell in self.record.cells:
            if self.arm in (None, cell.arm):
                groups.setdefault((*cell.key, cell.arm if self.arm is None else None), []).append(cell)
        return groups


def compare(a: Side, b: Side, seed: int = 0) -> list[Difference]:
    """Every measure both sides have under loads both sides have. Raises ConfigError if there is none, or if their workers differ in number."""
    if a.record.num_workers != b.record.num_workers:
        raise ConfigError(
            f"both sides must have equal numbers of workers, got {a.record.num_workers} and {b.record.num_workers}"
        )
    groups_a, groups_b = a.groups(), b.groups()
    shared = [key for key in groups_a if key in groups_b]
    if not shared:
        raise ConfigError(
            "the two sides have no load in common (workload, rate or concurrency, and arm unless FILE:ARM names one)"
        )
    rng = np.random.default_rng(seed)
    return [
        difference
        for key in shared
        for measure in _MEASURES
        if (difference := _difference(measure, key, groups_a[key], groups_b[key], rng)) is not None
    ]


@dataclass(frozen=True, slots=True)
class _Value:
    """A value, the moment it belongs to (seconds after the load's start), and which of the cell's it is."""

    moment: float
    index: int
    value: float


@dataclass(frozen=True, slots=True)
class _Measure:
    """A statistic over values that come at moments of a cell."""

    name: str
    unit: str
    values: "Callable[[Cell], list[_Value]]"
    statistic: Statistic
    min_samples: int = _MIN_SAMPLES


def _difference(
    measure: _Measure,
    key: tuple[object, ...],
    cells_a: Sequence[Cell],
    cells_b: Sequence[Cell],
    rng: np.random.Generator,
) -> Difference | None:
    keyed_a, keyed_b = (_keyed(measure, cells) for cells in (cells_a, cells_b))
    if min(len(keyed_a), len(keyed_b)) < measure.min_samples:
        return None
    is_paired = keyed_a.keys() == keyed_b.keys() and _prompts(cells_a) == _prompts(cells_b)
    values_a, values_b = (np.array([value for _key, value in sorted(keyed.items())]) for keyed in (keyed_a, keyed_b))
    draws_a = rng.integers(0, len(values_a), (_NUM_RESAMPLES, len(values_a)))
    draws_b = draws_a if is_paired else rng.integers(0, len(values_b), (_NUM_RESAMPLES, len(values_b)))
    resampled = [
        measure.statistic(values_b[b]) - measure.statistic(values_a[a]) for a, b in zip(draws_a, draws_b, strict=True)
    ]
    low, high = np.percentile(resampled, (0.5, 99.5))
    drift = 2.0 * _drift(_stretches(measure, cells_a), _stretches(measure, cells_b), is_paired)
    arm = f", {key[-1]}" if key[-1] is not None else ""
    return Difference(
        cells_a[0].load_label + arm,
        measure.name,
        measure.unit,
        measure.statistic(values_a),
        measure.statistic(values_b),
        float(low),
        float(high),
        drift,
        len(values_a),
        len(values_b),
    )


def _keyed(measure: _Measure, cells: Sequence[Cell]) -> dict[tuple[int, int], float]:
    return {(cell.repeat, one.index): one.value for cell in cells for one in measure.values(cell)}


def _prompts(cells: Sequence[Cell]) -> dict[tuple[int, int], int]:
    """What tells one trace from another."""
    return {(cell.repeat, sample.index): sample.num_prompt_tokens for cell in cells for sample in cell.samples}


def _stretches(measure: _Measure, cells: Sequence[Cell]) -> list[float | None]:
    """The statistic in each repeat, or in parts of the window where there are fewer than three; None where nothing came."""
    if len(cells) >= 3:
        stretches = [[one.value for one in measure.values(cell)] for cell in cells]
    else:
        stretches = [part for cell in cells for part in _parts(measure.values(cell), cell)]
    return [measure.statistic(np.array(part)) if part else None for part in stretches]


def _drift(a: Sequence[float | None], b: Sequence[float | None], is_paired: bool) -> float:
    """The standard error of b - a over stretches; of their differences where both sides had the same requests in each."""
    if is_paired and len(a) == len(b):
        return _standard_error([y - x for x, y in zip(a, b, strict=True) if x is not None and y is not None])
    return hypot(*(_standard_error([value for value in side if value is not None]) for side in (a, b)))


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 3:
        return float("inf")  # nothing can be said
    mad = float(np.median(np.abs(np.array(values) - np.median(values))))
    return _MAD_TO_SIGMA * mad / len(values) ** 0.5


def _parts(values: Sequence[_Value], cell: Cell) -> list[list[float]]:
    parts: list[list[float]] = [[] for _ in range(_NUM_STRETCHES)]
    for one in values:
        part = int((one.moment - cell.window_start_s) / cell.window_s * _NUM_STRETCHES)
        parts[max(0, min(part, _NUM_STRETCHES - 1))].append(one.value)
    return parts


def _latency(attribute: str) -> Callable[[Cell], list[_Value]]:
    def values(cell: Cell) -> list[_Value]:
        completed = [sample for sample in cell.measured if sample.is_completed]
        rows = [(sample.scheduled_s, sample.index, getattr(sample, attribute)) for sample in completed]
        return [_Value(moment, index, value) for moment, index, value in rows if value is not None]

    return values


def _tokens_per_s(cell: Cell) -> list[_Value]:
    """Tokens/s in each of twenty slices of the window."""
    edges = np.linspace(cell.window_start_s, cell.window_end_s, 21)
    counts, _edges = np.histogram(cell.token_times_s(), edges)
    width = cell.window_s / 20
    return [_Value(float(edges[i]) + width / 2, i, float(count) / width) for i, count in enumerate(counts)]


def _completed(cell: Cell) -> list[_Value]:
    return [_Value(sample.scheduled_s, sample.index, 100.0 * sample.is_completed) for sample in cell.measured]


def _p90(values: np.ndarray) -> float:
    return float(np.percentile(values, 90))


def _p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99))


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))


_QUANTILES = (
    ("mean", _mean, _MIN_SAMPLES),
    ("p50", _median, _MIN_SAMPLES),
    ("p90", _p90, _MIN_SAMPLES_P90),
    ("p99", _p99, _MIN_SAMPLES_P99),
)
_LATENCIES = (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("E2E", "e2e_ms"))

_MEASURES = (
    *(
        _Measure(f"{name} {label}", "ms", _latency(attribute), statistic, min_samples)
        for name, attribute in _LATENCIES
        for label, statistic, min_samples in _QUANTILES
    ),
    _Measure("output throughput", "tokens/s", _tokens_per_s, _mean),
    _Measure("completed", "%", _completed, _mean),
)
