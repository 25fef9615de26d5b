import subprocess
import sys
from pathlib import Path

import pytest

SAY = "from nanopd.bench.environment import describe_environment; print(describe_environment().command)"


@pytest.mark.parametrize(
    ("how", "command"),
    [
        (["nanopd"], "nanopd bench --seed 1"),
        (["example.py"], "python example.py bench --seed 1"),
        (["-m", "measure"], "python -m measure bench --seed 1"),
    ],
)
def test_the_command_is_what_was_typed(how: list[str], command: str, tmp_path: Path) -> None:
    (tmp_path / "measure").mkdir()
    for name in ("nanopd", "example.py", "measure/__init__.py", "measure/__main__.py"):
        (tmp_path / name).write_text(SAY if name != "measure/__init__.py" else "")
    paths = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin"}
    run = [sys.executable, *how, "bench", "--seed", "1"]
    done = subprocess.run(run, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == command, done.stderr
