"""A comparison as a table."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nanopd.bench.compare import Difference


def comparison_table(differences: Sequence[Difference], name_a: str, name_b: str) -> RenderableType:
    """Every difference, those beyond the noise marked, and the count in a sentence."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("load", "measure"):
        table.add_column(name)
    for name in ("A", "B", "B - A", "99 % interval", "drift", "verdict"):
        table.add_column(name, justify="right" if name != "verdict" else "left")
    load = None
    for one in differences:
        percent = "" if one.percent is None else f" ({one.percent:+.1f} %)"
        table.add_row(
            Text(one.load if one.load != load else ""),
            f"{one.measure}, {one.unit}",
            f"{one.a:.4g}",
            f"{one.b:.4g}",
            f"{one.b - one.a:+.4g}{percent}",
            f"{one.low:+.4g} to {one.high:+.4g}",
            "unknown" if one.drift == float("inf") else f"± {one.drift:.3g}",
            _verdict(one),
        )
        load = one.load
    num_real = sum(one.is_real for one in differences)
    return Group(
        Text(f"A = {name_a}\nB = {name_b}"),
        table,
        Text(f"{num_real} of {len(differences)} differences are larger than the noise between requests and over time."),
    )


def _verdict(one: Difference) -> Text:
    if one.is_real:
        return Text("differs", style="bold")
    return Text("too short to say" if one.drift == float("inf") else "within noise", style="dim")
