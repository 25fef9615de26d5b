"""Command-line options for sampling: fields of SamplingParams."""

import argparse

from nanopd.request import SamplingParams

_OPTIONS = (
    ("max_tokens", int, "tokens to generate at most"),
    ("temperature", float, "0: always the most probable token"),
    ("top_k", int, "sample among the k most probable tokens; 0: off"),
    ("top_p", float, "sample among the fewest tokens that reach this probability"),
    ("min_p", float, "leave out tokens less probable than this share of the best"),
    ("repetition_penalty", float, "above 1 discourages tokens seen before"),
    ("seed", int, "same seed, same tokens"),
)


def add_sampling_options(parser: argparse.ArgumentParser, defaults: SamplingParams) -> None:
    """Adds the options; what is not given is as in ``defaults``."""
    group = parser.add_argument_group("sampling")
    for name, kind, text in _OPTIONS:
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=kind,
            default=getattr(defaults, name),
            help=f"{text} (%(default)s)",
            metavar=name.upper(),
        )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="stop before this text; may be given several times"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the end-of-sequence token")


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """Raises InvalidRequestError naming the option."""
    values = {name: getattr(args, name) for name, _kind, _text in _OPTIONS}
    return SamplingParams(**values, stop=tuple(args.stop), ignore_eos=args.ignore_eos)
