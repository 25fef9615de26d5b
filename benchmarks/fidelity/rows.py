"""What is compared: one row per request, and what the rows of two runs say about each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from nanopd.metrics.summary import percentile

MEASURES = ("ttft_ms", "tpot_ms", "e2e_ms")
LIMITS = {"p50_error": 0.10, "p90_error": 0.15}


@dataclass(frozen=True, slots=True)
class Row:
    """One request: milliseconds since its scheduled arrival."""

    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    ttft_ms: float
    tpot_ms: float | None  # None: a single token
    e2e_ms: float

    @classmethod
    def of_times(cls, arrival_s: float, num_prompt_tokens: int, times_s: Sequence[float]) -> "Row":
        """``times_s``: of each output token, since the arrival."""
        first, last, count = times_s[0] * 1e3, times_s[-1] * 1e3, len(times_s)
        return cls(
            arrival_s, num_prompt_tokens, count, first, (last - first) / (count - 1) if count > 1 else None, last
        )


def compare(real: Sequence[Row], simulated: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By measure: percentiles of both, the simulation's relative error in each, and the median error of a single request."""
    assert len(real) == len(simulated)
    result = {}
    for name in MEASURES:
        pairs = [
            (ours, theirs)
            for a, b in zip(simulated, real, strict=True)
            if (ours := getattr(a, name)) is not None and (theirs := getattr(b, name)) is not None
        ]
        ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        row: dict[str, Any] = {"median_error": median(abs(a / b - 1.0) for a, b in pairs)}
        for level in (50, 90):
            row[f"real_p{level}"] = percentile(theirs, level)
            row[f"simulated_p{level}"] = percentile(ours, level)
            row[f"p{level}_error"] = row[f"simulated_p{level}"] / row[f"real_p{level}"] - 1.0
        row["within_limits"] = all(abs(row[key]) <= limit for key, limit in LIMITS.items())
        result[name] = row
    return result


def table(comparison: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| measure | real p50 | simulated | error | real p90 | simulated | error | median error of a request |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in comparison.items():
        cells = [
            cell
            for level in (50, 90)
            for cell in (
                f"{row[f'real_p{level}']:.1f} ms",
                f"{row[f'simulated_p{level}']:.1f} ms",
                f"{row[f'p{level}_error']:+.1%}",
            )
        ]
        lines.append(f"| {name.removesuffix('_ms').upper()} | {' | '.join(cells)} | {row['median_error']:.1%} |")
    return lines
