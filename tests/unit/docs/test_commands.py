"""Every command of README and docs is typed as written: all are parsed by the program they name, and run where a test can afford it."""

import argparse
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.doc_blocks import NEEDS, REPOSITORY, SHELLS, Block, all_blocks, inline_commands

from nanopd import cli
from nanopd.server.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest

BLOCKS = all_blocks(*SHELLS)
QUICK = (
    "generate",
    "simulate",
    "plan",
    "explain",
    "models",
    "--help",
    "--version",
)  # nanopd commands that take seconds
BODIES = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
SHELL_WORDS = ("export", "cd", "source", "kill", "wait", "mkdir", "cat")
# Programs that are not ours, and the test that sends their requests as they were recorded.
CLIENTS = dict.fromkeys(("aiperf", "guidellm", "lm_eval"), "tests/e2e/test_clients.py")


class Parsed(Exception):
    """A script's options were good."""


# ---- parsed by the program they name


def words_of(command: str) -> list[str]:
    """The words of a simple command: no pipe, no redirection, no comment, no assignments before it."""
    words = shlex.split(command, comments=True)
    for stop in ("|", ">", ">>", "&", "&&", ";"):
        words = words[: words.index(stop)] if stop in words else words
    while words and re.fullmatch(r"\w+=.*", words[0]):
        del words[0]
    return words


def check(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises, or exits as the program would, if the program does not take the command."""
    words = words_of(command)
    name, rest = Path(words[0]).name, words[1:]
    if name.startswith("python") and rest[:2] == ["-m", "nanopd"]:
        name, rest = "nanopd", rest[2:]
    match name:
        case "nanopd":
            check_nanopd(rest, monkeypatch)
        case "python" | "python3" if rest[0] == "-m":
            import_module(rest[1])
        case "python" | "python3":
            check_script(rest, monkeypatch)
        case "make":
            check_make(rest)
        case "pip":
            check_pip(rest)
        case "curl":
            check_curl(rest)
        case _ if name in CLIENTS:
            assert (REPOSITORY / CLIENTS[name]).exists()
        case _ if name in SHELL_WORDS:
            pass
        case _:
            program = REPOSITORY / words[0]
            assert program.exists(), f"nobody here knows {name!r}"


def check_nanopd(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None:
        with pytest.raises(SystemExit, match="^0$"):
            cli.main(words)
        return
    assert command in cli.COMMANDS, f"nanopd has no command {command!r}"
    monkeypatch.setattr(import_module(cli.COMMANDS[command].module), "run", lambda _args: 0)
    assert cli.main(words) == 0


def check_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the script up to the point where its options are parsed."""
    script = REPOSITORY / words[0]
    assert script.exists(), f"no script {words[0]}"
    if "ArgumentParser" not in script.read_text():
        assert not words[1:]
        compile(script.read_text(), script, "exec")
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse_args(parser, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [str(script), *words[1:]])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    with pytest.raises(Parsed):
        runpy.run_path(str(script), run_name="__main__")


def check_make(words: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name}\s*[:?]?=" if is_variable else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"make has no {word!r}"


def check_pip(words: list[str]) -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    assert words[0] == "install"
    for word in words[1:]:
        if extras := re.fullmatch(r"\.\[(.+)\]", word):
            for extra in extras[1].split(","):
                assert re.search(rf"^{extra} = \[", text, re.MULTILINE), f"no extra {extra!r}"
    if "-c" in words:
        assert (REPOSITORY / words[words.index("-c") + 1]).exists()


def check_curl(words: list[str]) -> None:
    url = next(word for word in words if word.startswith("http://"))
    path = "/" + url.removeprefix("http://").partition("/")[2]
    assert any(path.startswith(route.rstrip("/")) if route != "/" else path == "/" for route in routes()), path
    for option in ("-d", "--data"):
        if option in words:
            body = words[words.index(option) + 1].encode()
            json.loads(body)
            msgspec.json.decode(body, type=BODIES[path])


def routes() -> list[str]:
    """Paths of the server's routes, up to their first parameter."""
    text = "".join(path.read_text() for path in sorted((REPOSITORY / "nanopd" / "server").rglob("*.py")))
    return [path.partition("{")[0] for path in re.findall(r'Route\(\s*"(/[^"]*)"', text)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_command_is_one_its_program_takes(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    assert block.needs is None or block.needs in NEEDS
    assert block.commands
    for command in block.commands:
        with monkeypatch.context() as patch:
            check(command, patch)


def test_a_wrong_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (
        "nanopd serve --no-such-option",
        "nanopd frobnicate",
        "make frobnicate",
        "python examples/collocated.py --frobnicate",
        "pip install -e '.[frobnicate]'",
        "frobnicate",
        "curl http://127.0.0.1:8000/frobnicate",
        """curl http://127.0.0.1:8000/v1/completions -d '{"frobnicate": 1}'""",
    ):
        with monkeypatch.context() as patch, pytest.raises((SystemExit, AssertionError, msgspec.ValidationError)):
            check(command, patch)


@pytest.mark.parametrize(("page", "command"), inline_commands())
def test_commands_named_in_the_text(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may leave things out, so only their names and options are looked up."""
    words = command.replace("...", "").split()
    program, name = Path(words[0]).name, words[1]
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    if program == "make":
        return check_make([name])
    if program == "python":
        if name == "-m":
            monkeypatch.syspath_prepend(REPOSITORY)  # where such a command is given
            import_module(words[2])
            return
        source = (REPOSITORY / name).read_text()
        assert all(option in source for option in options), f"{name} lacks one of {options}"
        return
    assert name in cli.COMMANDS or name.startswith("-"), f"nanopd has no command {name!r}"
    if options:
        known = known_options(cli.COMMANDS[name].module)
        assert set(options) <= known, f"nanopd {name} lacks {sorted(set(options) - known)}"


def known_options(module: str) -> set[str]:
    """Of a command and its subcommands."""
    parser = argparse.ArgumentParser()
    import_module(module).add_arguments(parser)
    parsers, found = [parser], {"--help"}
    while parsers:
        for action in parsers.pop()._actions:
            found.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return found


# ---- run

Shell = Callable[[str], Any]


def is_quick(command: str) -> bool:
    words = words_of(command)
    return Path(words[0]).name == "nanopd" and len(words) > 1 and words[1] in QUICK


def pages_with(predicate: Callable[[Block], bool]) -> list[Any]:
    """The blocks in question by page, in order: a later command may read what an earlier one wrote."""
    by_page: dict[str, list[Block]] = {}
    for block in filter(predicate, BLOCKS):
        by_page.setdefault(block.page, []).append(block)
    return [pytest.param(blocks, id=page) for page, blocks in by_page.items()]


@pytest.mark.parametrize("blocks", pages_with(lambda b: b.needs is None and any(map(is_quick, b.commands))))
def test_quick_commands_run(blocks: list[Block], shell: Shell) -> None:
    for block in blocks:
        for command in filter(is_quick, block.commands):
            done = shell(command)
            assert done.returncode == 0, f"{block}: {command}\n{done.stderr}"


def is_example(command: str) -> bool:
    return "examples/" in command and "--device cuda" not in command


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize(
    "blocks", pages_with(lambda b: b.needs == "slow" or b.needs is None and any(map(is_example, b.commands)))
)
def test_slow_commands_run(blocks: list[Block], shell: Shell) -> None:
    for block in blocks:
        for command in block.commands:
            if block.needs == "slow" or is_example(command):
                done = shell(command)
                assert done.returncode == 0, f"{block}: {command}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("blocks", pages_with(lambda b: b.needs == "server"))
def test_commands_against_a_server(blocks: list[Block], shell: Shell, server_url: str) -> None:
    for block in blocks:
        for command in block.commands:
            if "serve" not in command:  # it runs already
                done = shell(command.replace("http://127.0.0.1:8000", server_url))
                assert done.returncode == 0, f"{block}: {command}\n{done.stderr}"
                assert '"error"' not in done.stdout, done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("blocks", pages_with(lambda b: b.needs == "gpu"))
def test_commands_on_a_gpu(blocks: list[Block], shell: Shell) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    for block in blocks:
        for command in block.commands:
            done = shell(command)
            assert done.returncode == 0, f"{block}: {command}\n{done.stderr}"
