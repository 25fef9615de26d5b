"""Steps padded to a shape give what ordinary forward passes give; run here without graphs, on any device."""

import pytest
import torch
from support.tiny_models import batch, block_table, dummy_folder, greedy_spec, piece

from nanopd.attention import AttentionBatch
from nanopd.config import CacheConfig, EngineConfig
from nanopd.model_runner import ModelRunner
from nanopd.model_runner.step_graphs import StepGraphs, StepShape, step_shapes, token_ladder


class ReadingAttention:
    """The torch reference, which plans by lengths on the host, for batches whose lengths must be read on the device, as kernels do."""

    def __init__(self, attention):
        self._attention = attention

    def store(self, qkv, cos_sin, norms, kv_layer, batch):
        self._attention._planned = None  # the same batch holds another step now
        self._cos_sin = cos_sin
        return self._attention.store(qkv, cos_sin, norms, kv_layer, batch)

    def attend(self, q, kv_layer, batch):
        exact = exact_batch(batch)
        self._attention._planned = exact, self._attention._plan(self._cos_sin, q.dtype, exact)
        num_tokens = sum(exact.q_lens)
        rest = torch.full_like(q[num_tokens:], torch.nan)
        return torch.cat((self._attention.attend(q[:num_tokens], kv_layer, exact), rest))


def exact_batch(padded):
    """Only the sequences that have a context."""
    contexts, cu = padded.context_lens_B.tolist(), padded.cu_q_lens_B1.tolist()
    rows = [row for row, context in enumerate(contexts) if context]
    num_decodes = sum(row < padded.num_decodes for row in rows)
    q_lens = [1 if row < padded.num_decodes else cu[row + 1] - cu[row] for row in rows]
    assert cu[padded.num_decodes] == num_decodes
    num_tokens = sum(q_lens)
    return AttentionBatch(
        padded.positions_T[:num_tokens],
        padded.slot_mapping_T[:num_tokens],
        padded.block_tables_BM[rows],
        padded.context_lens_B[rows],
        padded.cu_q_lens_B1,
        num_decodes,
        tuple(q_lens),
        tuple(contexts[row] for row in rows),
        padded.block_size,
    )


@torch.inference_mode()
def load(folder, dtype, is_padded):
    config = EngineConfig(
        model=folder, load_format="dummy", device="cpu", dtype=dtype, num_threads=1, cache=CacheConfig(8, 24)
    )
    runner = ModelRunner.load(config)
    if is_padded:
        decoder = runner._decoder
        decoder.attention = ReadingAttention(decoder.attention)
        graphs = StepGraphs(decoder, runner.kv_cache, 40, 6, runner.max_model_len, lambda work: work)
        graphs._tables_BM.fill_(23)  # what is not loaded must not matter
        for buffer in (graphs._residual_TE, graphs._attended_THD):
            buffer.fill_(torch.nan)
        runner._step_graphs = graphs
    return runner


def steps():
    """A prompt alone; chunks beside decodes; a chunk that samples nothing; all prompt positions; more tokens than any graph has."""
    a, b, c = block_table(5, 2, 9), block_table(7, 1, 8, 4), block_table(0, 3, 10, 11, 12, 13)
    yield batch(piece("a", list(range(3, 14)), 0, a, greedy_spec()))
    yield batch(
        piece("a", [0], 11, a, greedy_spec(), previous_row=0),
        piece("b", list(range(30, 47)), 0, b),
        piece("c", [1, 2, 3], 0, c, greedy_spec()),
    )
    yield batch(piece("b", [41] * 4, 17, b))
    wants = {"prompt_logprobs": 2, "logprob_targets": [50, 51, 52]}
    yield batch(
        piece("c", [7], 3, c, greedy_spec()), piece("a", [9], 12, a), piece("b", [50, 51, 52], 21, b, None, **wants)
    )
    yield batch(piece("b", [5, 6], 24, b, greedy_spec()), piece("c", list(range(42)), 4, c, greedy_spec()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "options", [{}, {"model_type": "qwen2", "attention_bias": True}, {"num_hidden_layers": 1}], ids=str
)
def test_padded_steps_give_what_ordinary_ones_give(tmp_path, dtype, options):
    folder = dummy_folder(tmp_path, **options)
    ordinary, padded = load(folder, dtype, False), load(folder, dtype, True)
    for step in steps():
        expected, got = ordinary.submit(step).result(), padded.submit(step).result()
        assert got.token_ids == expected.token_ids
        assert got.prompt_logprobs == expected.prompt_logprobs
        torch.testing.assert_close(padded.kv_cache.pool, ordinary.kv_cache.pool)


def test_the_ladder_ends_with_the_largest_step():
    assert token_ladder(1) == [1]
    assert token_ladder(40) == [8, 16, 32, 40]
    assert token_ladder(2048)[-3:] == [1792, 1920, 2048]
    assert token_ladder(16384) == token_ladder(2048)


def test_shapes_are_in_order_and_the_last_holds_what_any_other_holds():
    shapes = step_shapes(16384, 512)
    assert shapes[:3] == [StepShape(8, 0, 1), StepShape(8, 8, 1), StepShape(8, 8, 8)]
    assert shapes[-2:] == [StepShape(2048, 0, 1), StepShape(2048, 512, 64)]
    assert step_shapes(4, 1) == [StepShape(4, 0, 1), StepShape(4, 1, 1)]
