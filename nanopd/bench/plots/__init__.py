"""The figures of records. Each is drawn from one record, or skipped with a sentence that says what it would need."""

from nanopd.bench.plots.draw import FIGURES, draw_all

__all__ = ["FIGURES", "draw_all"]
