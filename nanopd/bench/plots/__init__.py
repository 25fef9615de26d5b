"""The figures of records, profiles and scores. Each is drawn from one file, or skipped with a sentence that says what it would need."""

from nanopd.bench.plots.draw import FIGURES, RECORD_FIGURES, draw_all
from nanopd.bench.plots.sources import Source, read_source

__all__ = ["FIGURES", "RECORD_FIGURES", "Source", "draw_all", "read_source"]
