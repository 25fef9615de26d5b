"""From ``--arm``, ``--base-url`` and ``--serve`` to arms."""

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from nanopd.cli.engine_options import engine_and_cluster
from nanopd.cli.serve import add_arguments as add_serve_arguments
from nanopd.errors import ConfigError

if TYPE_CHECKING:
    from nanopd.bench.arm import Arm


def add_arm_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("arms (default: the three strategies, on equally many workers)")
    group.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="NAME=WHAT",
        help="what to measure, again for each arm: options of nanopd serve ('2c=--workers 2C'), or the URL of an engine that runs "
        "and its number of devices ('other=http://127.0.0.1:8001 --devices 2')",
    )
    group.add_argument("--base-url", default=None, help="an engine that runs: short for a single --arm")
    group.add_argument("--devices", type=int, default=1, help="of the engine at --base-url (%(default)s)")
    group.add_argument(
        "--num-workers",
        type=int,
        default=2,
        help="of each strategy: N collocated, or half prefill and half decode (%(default)s)",
    )
    group.add_argument(
        "--serve",
        default="",
        metavar="OPTIONS",
        help="options of nanopd serve for every arm it starts: --serve='--num-blocks 512'",
    )


def arms_of(args: argparse.Namespace) -> "list[Arm]":
    """Raises ConfigError: an option that nanopd serve does not have, unequal numbers of workers."""
    from nanopd.bench.arm import Arm, check_arms, strategy_arms

    common = tuple(shlex.split(args.serve))
    if args.base_url is not None:
        if args.arm:
            raise ConfigError("give either --base-url or --arm, got both")
        arms = [Arm("engine", args.devices, base_url=args.base_url)]
    elif args.arm:
        arms = [_arm(text, common) for text in args.arm]
    else:
        arms = strategy_arms(args.num_workers, common)
        _num_workers(arms[0].serve_options)
    check_arms(arms)
    return arms


def _arm(text: str, common: tuple[str, ...]) -> "Arm":
    from nanopd.bench.arm import Arm

    name, separator, what = text.partition("=")
    words = shlex.split(what)
    if not name or not separator or not words:
        raise ConfigError(f"an arm must look like NAME=OPTIONS or NAME=URL, got {text!r}")
    if "://" not in words[0]:
        options = (*common, *words)
        return Arm(name, _num_workers(options), options)
    match words[1:]:
        case []:
            return Arm(name, 1, base_url=words[0])
        case ["--devices", count] if count.isdigit():
            return Arm(name, int(count), base_url=words[0])
        case _:
            raise ConfigError(f"after an arm's URL only --devices N can follow, got {shlex.join(words[1:])!r}")


def _num_workers(options: Sequence[str]) -> int:
    parser = _OptionParser(prog="nanopd serve", add_help=False, allow_abbrev=False)
    add_serve_arguments(parser)
    _engine, cluster = engine_and_cluster(parser.parse_args(list(options)))
    return cluster.topology.num_workers


class _OptionParser(argparse.ArgumentParser):
    """Mistakes are exceptions here."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")
