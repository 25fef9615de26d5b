"""The commands as a user types them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
ENGINE = ("--dtype", "float32", "--num-blocks", "256")


def run(*command: str, stdin: str = "") -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }
    result = subprocess.run(
        [sys.executable, *command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=REPOSITORY,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_generate_with_three_workers_and_a_report() -> None:
    prompt = "The capital of France is"
    command = ("-m", "nanopd", "generate", "--prompt", prompt, "--max-tokens", "6", "--n", "2", "--show-report")
    output = run(*command, "--workers", "1C+1P+1D", "--strategy", "disaggregated", *ENGINE)
    assert output.count(f"{prompt} Paris") == 2
    assert output.count("prefill-0 > decode-0") == 2
    assert "2 requests (2 disaggregated), 12 tokens in" in output


def test_chat_remembers_and_forgets() -> None:
    lines = "What is the capital of France?\n/report\n/reset\n\nWhat is the capital of France?\n/exit\n"
    output = run("-m", "nanopd", "chat", "--temperature", "0", "--max-tokens", "16", *ENGINE, stdin=lines)
    assert output.count("The capital of France is Paris.") == 2
    assert output.count("\n last answer ") == 1


def test_chat_ends_with_its_input() -> None:
    assert "Hello" in run("-m", "nanopd", "chat", "--temperature", "0", "--max-tokens", "8", *ENGINE, stdin="Hi\n")


def test_demo_answers_and_accounts_for_every_chat() -> None:
    output = run("-m", "nanopd", "demo", "--max-tokens", "10", *ENGINE)
    answers, table = output.split("Where the time went (ms)")
    assert "The capital of France is Paris." in answers
    assert all(f"\n{number:2}  " in answers for number in range(1, 13))
    assert all(f"\n {number:2}  " in table for number in range(1, 13))
    assert "prefill-0 > decode-0" in table and "collocated-0" in table
    assert "12 requests" in table and "of KV handed over" in table


def test_quickstart() -> None:
    output = run("examples/quickstart.py")
    assert "The capital of France is Paris." in output
    assert re.search(r"(collocated|disaggregated), first token after \d+ ms", output)  # the router decides
