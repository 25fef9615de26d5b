"""Beam search and forks on a tiny model with real KV: against transformers, against a plain search, bit by bit in the siblings' blocks."""

import numpy as np
import pytest
import torch
from support.plain_beam_search import plain_beam_search
from transformers import LlamaConfig, LlamaForCausalLM

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine, SeqOutput
from nanopd.model_runner import ModelRunner
from nanopd.request import BeamParams, Request, SamplingParams
from nanopd.scheduler import Scheduler

VOCAB_SIZE, PAD = 101, 1
STOP_IDS = tuple(range(2, 102, 8))  # many, so that hypotheses end at all lengths
BLOCK_SIZE, NUM_BLOCKS = 8, 64
RULES = {"heuristic": False, "first": True, "never": "never"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)  # distributions with a shape
    model.folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(model.folder)
    return model


@pytest.fixture(scope="module")
def runner(model) -> ModelRunner:
    cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS)
    config = EngineConfig(model=str(model.folder), dtype="float32", device="cpu", num_threads=1, cache=cache)
    return ModelRunner.load(config)


@pytest.fixture
def engine(runner) -> Engine:
    blocks = BlockManager(NUM_BLOCKS, BLOCK_SIZE)
    return Engine(
        Scheduler(SchedulerConfig(prefill_chunk_size=16), blocks, runner.max_model_len), runner, VirtualClock()
    )


def search(engine: Engine, prompt: list[int], max_tokens: int, params: BeamParams) -> tuple[SeqOutput, int]:
    """The answer, and the largest number of blocks in use."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_token_ids=STOP_IDS)
    engine.run_local("s", Request("r", tuple(prompt), sampling, beam=params))
    outputs, peak = [], 0
    while engine.has_work:
        outputs += engine.step().outputs
        engine.scheduler.check()
        peak = max(peak, NUM_BLOCKS - engine.stats().num_free_blocks)
    (output,) = outputs
    return output, peak


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, VOCAB_SIZE, length).tolist() for length in (1, 7, 16, 45)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_width_four_is_what_transformers_finds(model, engine, rule: str, length_penalty: float) -> None:
    for prompt in prompts():
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=14,
            num_beams=4,
            num_return_sequences=4,
            do_sample=False,
            length_penalty=length_penalty,
            early_stopping=RULES[rule],
            eos_token_id=list(STOP_IDS),
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
        )
        output, _ = search(engine, prompt, 14, BeamParams(4, length_penalty, rule))
        for ours, sequence, score in zip(output.hypotheses, theirs.sequences, theirs.sequences_scores, strict=True):
            expected = sequence[len(prompt) :].tolist()
            assert list(ours.token_ids) == expected[: len(ours.token_ids)]
            assert set(expected[len(ours.token_ids) :]) <= {PAD}
            assert ours.score == pytest.approx(float(score), abs=1e-4)


def test_width_four_is_what_a_plain_search_finds_in_fewer_blocks_than_four_sequences(model, engine) -> None:
    prompt = prompts()[-1]

    @torch.inference_mode()
    def logprobs(tokens) -> np.ndarray:
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].double()
        return logits.log_softmax(-1).numpy()

    output, peak = search(engine, prompt, 20, BeamParams(4, 1.0, "never"))
    expected = plain_beam_search(logprobs, 4, 20, frozenset(STOP_IDS), 1.0, "never")
    assert [hypothesis.token_ids for hypothesis in output.hypotheses] == [tokens for tokens, _ in expected]
    assert [hypothesis.score for hypothesis in output.hypotheses] == pytest.approx([s for _, s in expected], abs=1e-4)
    longest = len(prompt) + max(len(hypothesis.token_ids) for hypothesis in output.hypotheses)
    assert peak < 4 * engine.scheduler.blocks.blocks_for(longest)
    assert engine.stats().num_free_blocks == NUM_BLOCKS


def test_divergent_writes_of_forks_leave_their_siblings_kv_bit_unchanged(runner, engine) -> None:
    prompt = tuple(prompts()[-1])  # 45 tokens: five full blocks, and a sixth that the forks write into
    kv, scheduler = runner.kv_cache, engine.scheduler

    def run() -> None:
        while engine.has_work:
            engine.step()
            scheduler.check()

    def held(seq_id: str, num_tokens: int) -> torch.Tensor:
        """KV of the first tokens of a sequence, [L, 2, K, T, D]."""
        blocks = kv.gather(scheduler._roster.get(seq_id).table.ids)
        return blocks.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)[..., :num_tokens, :].clone()

    greedy = Request("r", prompt, SamplingParams(max_tokens=40, temperature=0.0))
    engine.fork("nobody", "parent", greedy, hold=True)
    run()
    parent = held("parent", 45)
    for name, outputs in {"a": (1,), "b": (2,), "c": (3,)}.items():
        engine.fork("parent", name, greedy, outputs, hold=True)
    run()
    tables = [set(scheduler._roster.get(name).table.ids) for name in ("parent", "a", "b", "c")]
    assert len(set.intersection(*tables)) == 5 and len(set.union(*tables)) == 5 + 4
    assert torch.equal(held("parent", 45), parent)
    siblings = {name: held(name, 46) for name in ("b", "c")}
    for kv_of_sibling in siblings.values():
        assert torch.equal(kv_of_sibling[..., :45, :], parent)
    # One of them goes on across two block boundaries; the others stay as they are, to the bit.
    engine.fork("a", "onward", Request("r", prompt, SamplingParams(max_tokens=30, temperature=0.0)), (1,))
    run()
    assert torch.equal(held("parent", 45), parent)
    for name, before in siblings.items():
        assert torch.equal(held(name, 46), before)
    for name in ("parent", "a", "b", "c"):
        engine.release(name)
    run()
    assert engine.stats().num_free_blocks == NUM_BLOCKS
