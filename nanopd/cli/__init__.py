"""The ``nanopd`` command. Each subcommand is a module that is imported only when it is called, so ``nanopd --help`` stays instant."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn, Protocol

from nanopd import __version__
from nanopd.errors import NanoPDError


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: ``module`` has ``add_arguments(parser)`` and ``run(args) -> exit code``."""

    module: str
    help: str


COMMANDS = {
    "generate": Command("nanopd.cli.generate", "continue a prompt, or several"),
    "chat": Command("nanopd.cli.chat", "talk to a model in the terminal"),
    "serve": Command("nanopd.cli.serve", "serve a model over HTTP, as the OpenAI API"),
    "top": Command("nanopd.cli.top", "watch a running server in the terminal"),
    "demo": Command("nanopd.cli.demo", "watch collocated, prefill and decode workers share a dozen chats"),
    "trace": Command("nanopd.cli.trace", "run a workload and write a Chrome/Perfetto trace of every step"),
    "bench": Command("nanopd.cli.bench", "measure an engine over HTTP, draw the figures, compare"),
    "simulate": Command("nanopd.cli.simulate", "play a workload to a cluster in virtual time"),
    "plan": Command("nanopd.cli.plan", "find the topology and policy that keep an objective"),
    "explain": Command("nanopd.cli.explain", "say why a request went where it went"),
    "models": Command("nanopd.cli.models", "list the models that are on this machine"),
    "profile": Command("nanopd.cli.profile", "measure this machine for the router and the simulator"),
}


class _CommandModule(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


class _Parser(argparse.ArgumentParser):
    """One sentence instead of a screen of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit code: 0, 1 (it failed), 2 (the caller's mistake), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        prog="nanopd", description="A prefill/decode-disaggregated LLM inference engine.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"nanopd {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    module = _add_commands(subparsers, chosen=next((word for word in words if not word.startswith("-")), None))
    args = parser.parse_args(words)
    if module is None:
        parser.print_help()
        return 0
    try:
        return module.run(args)
    except NanoPDError as error:
        print(f"nanopd {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130


def _add_commands(subparsers: Any, chosen: str | None) -> _CommandModule | None:
    """Names every command; imports only the chosen one, which then states its options."""
    module: Any = None
    for name, command in COMMANDS.items():
        parser = subparsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        if name == chosen:
            module = import_module(command.module)
            module.add_arguments(parser)
    return module
