"""``nanopd bench plot`` and ``nanopd bench compare``: what is done with files that are there already."""

import argparse
from pathlib import Path
from typing import Any


def add_file_kinds(kinds: Any) -> None:
    text = "figures of records, hardware profiles and predictor scores"
    plot = kinds.add_parser("plot", help=text, description=text, allow_abbrev=False)
    plot.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    plot.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the figures")
    plot.add_argument("--format", default="png", choices=("png", "svg", "pdf"))
    plot.set_defaults(handler=_plot)
    text = "which differences are larger than the noise"
    compare = kinds.add_parser("compare", help=text, description=text, allow_abbrev=False)
    compare.add_argument("a", metavar="A", help="FILE.json, or FILE.json:ARM")
    compare.add_argument("b", metavar="B")
    compare.set_defaults(handler=_compare)


def _plot(args: argparse.Namespace) -> int:
    from nanopd.bench.plots import draw_all, read_source

    for line in draw_all({path.stem: read_source(path) for path in args.files}, args.out, args.format):
        print(line)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from nanopd.bench.compare import compare
    from nanopd.bench.compare_table import comparison_table
    from nanopd.cli.report_table import make_console

    make_console().print(comparison_table(compare(_side(args.a), _side(args.b)), args.a, args.b))
    return 0


def _side(text: str) -> Any:
    from nanopd.bench.compare import Side
    from nanopd.bench.record import read_record

    path, _colon, arm = text.partition(":")
    return Side(read_record(Path(path)), arm or None)
