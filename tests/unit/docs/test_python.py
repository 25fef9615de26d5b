"""Every Python block of README and docs runs, and prints what the page says it prints."""

import subprocess

import pytest
from support.doc_blocks import NEEDS, Block, all_blocks

BLOCKS = all_blocks("python")


def marks(block: Block) -> list[pytest.MarkDecorator]:
    match block.needs:
        case "slow" | "server":
            return [pytest.mark.slow, pytest.mark.e2e]
        case "gpu":
            return [pytest.mark.gpu, pytest.mark.skipif(not has_gpu(), reason="no GPU")]
        case "parse":
            return [pytest.mark.skip(reason="the page says so")]
        case _:
            return []


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_compiles_and_its_needs_are_known(block: Block) -> None:
    compile(block.code, str(block), "exec")
    assert block.needs is None or block.needs in NEEDS


@pytest.mark.parametrize("block", [pytest.param(block, marks=marks(block), id=str(block)) for block in BLOCKS])
def test_it_runs(block: Block, shell, checkout, request: pytest.FixtureRequest) -> None:
    code = block.code
    if block.needs == "server":
        code = code.replace("http://127.0.0.1:8000", request.getfixturevalue("server_url"))
    (checkout / "snippet.py").write_text(code)
    done: subprocess.CompletedProcess[str] = shell(".venv/bin/python snippet.py")
    assert done.returncode == 0, done.stderr
    if block.output is not None:
        assert done.stdout == block.output
