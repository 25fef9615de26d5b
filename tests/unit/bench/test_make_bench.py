"""What ``make bench`` would run: commands that nanopd takes, on equal arms, whose records all become figures."""

import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from nanopd import cli

REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture(scope="module")
def commands() -> list[list[str]]:
    """Words of each nanopd command, from a dry run."""
    done = subprocess.run(
        ["make", "-n", "bench", "BENCH=out"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return [words[1:] for words in map(shlex.split, lines) if words and words[0].endswith("bin/nanopd")]


def test_every_command_parses(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(commands) >= 7
    for words in commands:
        monkeypatch.setattr(import_module(cli.COMMANDS[words[0]].module), "run", lambda _args: 0)
        assert cli.main(words) == 0


def test_every_record_is_drawn(commands: list[list[str]]) -> None:
    written = {Path(words[words.index("--out") + 1]).with_suffix(".json") for words in commands[:-1]}
    assert commands[-1][:2] == ["bench", "plot"]
    assert {Path(word) for word in commands[-1] if word.endswith(".json")} == written


def test_all_loads_have_the_same_arms(commands: list[list[str]]) -> None:
    loads = [
        words for words in commands if words[:1] == ["bench"] and words[1] in ("static", "poisson", "sweep", "offline")
    ]
    arms = {
        (words[words.index("--num-workers") + 1], next(w for w in words if w.startswith("--serve"))) for words in loads
    }
    assert len(loads) == 4
    assert arms == {("2", "--serve=--num-blocks 512 --num-threads 1")}
