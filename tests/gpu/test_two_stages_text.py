"""SmolLM2-135M in bfloat16, real weights and real text, through a prefill and a decode worker on the GPU: the tokens of collocated runs.

Both paths are held to the float32 reference where its choice is clear, and to one another: where they part, the log-probabilities of the best two
tokens must be within what bfloat16 rounds (a batch of another size is added up in another order).
"""

import json
import os
from pathlib import Path

import pytest
import torch

from nanopd import LLM, SamplingParams
from nanopd.errors import UnknownModelError
from nanopd.request import Strategy
from nanopd.weights import resolve_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "smollm2_greedy_reference.json").read_text())["prompts"]
MODEL = os.environ.get("NANOPD_TEST_GGUF", "smollm2-135m-instruct")
CLEAR_GAP = 0.15


def parting(tokens, expected):
    return next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b), None)


@pytest.mark.parametrize("transport", ["peer_to_peer", "pinned_relay"])
def test_two_stages_write_the_text_of_one(transport):
    try:
        resolve_model(MODEL)
    except UnknownModelError:
        pytest.skip("the embedded model is not installed")
    prompts = [case["prompt_ids"] for case in REFERENCE]
    params = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True, logprobs=2)
    options = {
        "device": "cuda",
        "dtype": "bfloat16",
        "num_blocks": 512,
        "transport": transport,
        "verify_transfers": True,
    }
    with LLM(MODEL, workers="1P+1D", strategy=Strategy.DISAGGREGATED, **options) as llm:
        apart = llm.generate(prompts, params)
        again = llm.generate(prompts, params)  # whose prompts the decode worker knows: few blocks move, or none
    with LLM(MODEL, workers="1C", device="cuda", dtype="bfloat16", num_blocks=512) as llm:
        together = llm.generate(prompts, params)
    assert {output.report.decision.chosen.path for output in apart} == {"disaggregated"}
    assert {output.report.transport for output in apart} == {transport}
    assert all(output.report.transfer_bytes > 0 and output.report.num_attempts == 1 for output in apart)
    assert sum(o.report.transfer_bytes for o in again) < sum(o.report.transfer_bytes for o in apart)
    for outputs in (apart, again, together):
        for case, output in zip(REFERENCE, outputs, strict=True):
            parted = parting(output.token_ids, case["output_ids"])
            assert parted is None or case["top1_top2_logprob_gap"][parted] <= CLEAR_GAP, (case["text"], parted)
    for one, other in zip(apart, together, strict=True):
        parted = parting(one.token_ids, other.token_ids)
        if parted is not None:
            (_, best), (_, second) = other.logprobs[parted].top[:2]
            assert best - second <= CLEAR_GAP, f"they part at token {parted}, by a margin of {best - second}"
    assert any(one.token_ids == other.token_ids for one, other in zip(apart, together, strict=True))
