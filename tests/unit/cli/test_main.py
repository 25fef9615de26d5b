import subprocess
import sys

import pytest

from nanopd import __version__
from nanopd.cli import COMMANDS, main

HEAVY = ("torch", "transformers", "fastapi", "starlette", "uvicorn", "numpy", "tokenizers", "rich", "zmq")


def heavy_modules_after(code: str) -> list[str]:
    """Which of HEAVY a fresh interpreter has imported after running ``code``."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nprint('\\n' + ' '.join(m for m in {HEAVY} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "code", ["import nanopd", "import nanopd; nanopd.SamplingParams", "from nanopd.cli import main; main(['--help'])"]
)
def test_stays_light(code: str) -> None:
    assert heavy_modules_after(code) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_no_engine(command: str) -> None:
    assert not {"torch", "starlette", "numpy"} & set(
        heavy_modules_after(f"from nanopd.cli import main; main(['{command}', '--help'])")
    )


def test_the_check_above_can_fail() -> None:
    assert heavy_modules_after("import numpy") == ["numpy"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"nanopd {__version__}\n"


def test_no_command_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert all(name in capsys.readouterr().out for name in ("nanopd",))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["serve", "--workers", "3X"], "nanopd serve: workers must look like 1C+1P+1D"),
        (
            ["serve", "--strategy", "best"],
            "nanopd serve: strategy must be one of collocated, disaggregated, adaptive, got 'best'",
        ),
        (
            ["serve", "--dtype", "int3"],
            "nanopd serve: dtype must be one of auto, float32, bfloat16, float16, got 'int3'",
        ),
        (["serve", "--block-size", "24"], "nanopd serve: block_size must be a power of two, got 24"),
        (
            ["generate", "--prompt", "a", "--temperature", "-1"],
            "nanopd generate: temperature must be between 0 and 100, got -1.0",
        ),
        (["generate", "--prompt", "a", "--model", "./nowhere"], "nanopd generate: model './nowhere' not found"),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence_and_2(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nothing"], "invalid choice: 'nothing'"),
        (["serve", "--nothing"], "unrecognized arguments: --nothing"),
        (["serve", "--block-size", "many"], "argument --block-size: invalid int value: 'many'"),
        (["serve", "--block", "16"], "unrecognized arguments: --block"),
        (["generate"], "required: --prompt"),
    ],
)
def test_an_option_that_cannot_be_is_one_sentence_and_2(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
