"""Speculative decoding and beam search through the library and the command line, on the embedded model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanopd import LLM, SamplingParams
from nanopd.errors import ConfigError, InvalidRequestError, WorkerError
from nanopd.runtime.generation import GenerationOptions

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
REFERENCE = json.loads((REPOSITORY / "tests" / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]
OPTIONS = {"dtype": "float32", "num_blocks": 128, "num_threads": 1}
GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
LIST = "red, green, blue, " * 8


@pytest.mark.parametrize("speculative", ["prompt-lookup", "smollm2-135m-instruct"])
@pytest.mark.parametrize("workers", ["1C", "1P+1D"])
def test_speculative_tokens_are_the_references(speculative: str, workers: str) -> None:
    prompts = [case["prompt_ids"] for case in REFERENCE[:3]]
    options = GenerationOptions(strategy="disaggregated" if "P" in workers else None)
    with LLM(workers=workers, speculative=speculative, num_draft_tokens=3, **OPTIONS) as llm:
        outputs = llm.generate([*prompts, LIST], GREEDY, options=options)
    for output, case in zip(outputs[:3], REFERENCE[:3], strict=True):
        assert list(output.token_ids) == case["output_ids"][:24]
    report = outputs[-1].report
    assert report is not None
    num_drafted = report.prefill.num_draft_tokens + report.decode.num_draft_tokens
    num_accepted = report.prefill.num_accepted_tokens + report.decode.num_accepted_tokens
    if speculative == "prompt-lookup":
        assert 0 < num_accepted <= num_drafted
    else:
        assert num_accepted == num_drafted >= 15  # the model itself: every guess is right


def test_a_draft_model_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    from support.tiny_models import dummy_folder

    with pytest.raises(WorkerError, match="must have the model's vocabulary of 49152 tokens, got 97"):
        LLM(speculative=dummy_folder(tmp_path), **OPTIONS)
    with pytest.raises(ConfigError, match="num_draft_tokens must be at least 1, got 0"):
        LLM(speculative="prompt-lookup", num_draft_tokens=0, **OPTIONS)


def test_beam_search() -> None:
    with LLM(**OPTIONS) as llm:
        greedy, *_ = llm.generate("The capital of France is", SamplingParams(max_tokens=6, temperature=0.0))
        one, two = llm.beam_search(["The capital of France is", LIST], width=4, max_tokens=6)
        (single,) = llm.beam_search("The capital of France is", width=1, max_tokens=6)
        assert single.token_ids == greedy.token_ids and single.text == greedy.text
        for output in (one, two):
            scores = [choice.score for choice in output.choices]
            assert len(scores) == 4 and scores == sorted(scores, reverse=True)
            assert len({choice.token_ids for choice in output.choices}) == 4
            for choice in output.choices:
                assert choice.score == pytest.approx(choice.logprob / len(choice.token_ids))
        assert one.text.startswith(" Paris")
        # What a hypothesis says of itself is what the model says of its tokens.
        check = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        (echo,) = llm.generate([[*one.prompt_token_ids, *one.token_ids]], check)
        logprobs = [entry.logprob for entry in echo.choices[0].prompt_logprobs[-len(one.token_ids) :]]
        assert sum(logprobs) == pytest.approx(one.choices[0].logprob, abs=1e-3)
        with pytest.raises(InvalidRequestError, match="width must be between 1 and 20, got 0"):
            llm.beam_search("a", width=0)
        with pytest.raises(InvalidRequestError, match="strategy must be collocated for beam search"):
            llm.beam_search("a", options=GenerationOptions(strategy="disaggregated"))


def test_beam_search_on_the_command_line() -> None:
    command = [sys.executable, "-m", "nanopd", "generate", "--prompt", "One, two,", "--num-blocks", "64"]
    beams = ["--beam-width", "2", "--max-tokens", "4", "--length-penalty", "0.5"]
    result = subprocess.run([*command, *beams], capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith("[-")]
    assert len(lines) == 2 and all("One, two," in line for line in lines)
    refused = subprocess.run(
        [*command, *beams, "--n", "2"], capture_output=True, text=True, cwd=REPOSITORY, timeout=120
    )
    assert refused.returncode != 0 and "--n must be 1 with --beam-width" in refused.stderr
