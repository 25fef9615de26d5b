"""A captured step's inputs give what the ordinary path gives; run here without a graph, on any device."""

from dataclasses import replace

import pytest
import torch
from support.tiny_models import batch, block_table, dummy_folder, greedy_spec, piece

from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.model_runner import ModelRunner
from nanopd.model_runner.decode_inputs import DecodeInputs
from nanopd.model_runner.graphs import ladder

TABLES = [block_table(5, 2, 9), block_table(7), block_table(1, 8)]
PROMPTS = [list(range(3, 20)), [40, 41, 42], list(range(50, 61))]


@pytest.fixture
def runner(tmp_path):
    config = EngineConfig(
        model=dummy_folder(tmp_path),
        load_format="dummy",
        device="cpu",
        dtype="float32",
        num_threads=1,
        cache=CacheConfig(block_size=8, num_blocks=12),
        scheduler=SchedulerConfig(max_num_seqs=5),
    )
    return ModelRunner.load(config)


@pytest.mark.parametrize("num_rows", [3, 4, 8])
def test_static_inputs_equal_prepared_ones(runner, num_rows):
    prefill = batch(
        *(piece(str(i), p, 0, t, greedy_spec()) for i, (p, t) in enumerate(zip(PROMPTS, TABLES, strict=True)))
    )
    first = runner.submit(prefill).result().token_ids
    inputs = DecodeInputs(8, 5, runner.max_model_len, 8, torch.device("cpu"))
    inputs.sampled_ids_R[:3] = torch.tensor(first)
    sources, geometry = inputs.views(num_rows)
    pool_before = runner.kv_cache.pool.clone()
    for _ in range(2):  # the second time over the first's leftovers
        # Two rows take their id from the step before, crosswise; one brings its own.
        decodes = batch(
            piece("0", [0], 17, TABLES[0], greedy_spec(), previous_row=2),
            piece("1", [33], 3, TABLES[1], greedy_spec()),
            piece("2", [0], 11, TABLES[2], greedy_spec(), previous_row=0),
        )
        inputs.load(decodes, num_rows)
        assert inputs.input_ids(sources)[:3].tolist() == [first[2], 33, first[0]]
        hidden = runner._decoder.forward(
            inputs.input_ids(sources), geometry_of(geometry, decodes, num_rows), runner.kv_cache
        )
        got = runner._decoder.logits(hidden)[:3]
    pool_after = runner.kv_cache.pool.clone()
    runner.kv_cache.pool.copy_(pool_before)
    ids = [first[2], 33, first[0]]
    expected = batch(
        *(
            piece(s.request_id, [t], s.start, s.block_table, greedy_spec())
            for s, t in zip(decodes.slices, ids, strict=True)
        )
    )
    assert runner.submit(expected).result().token_ids == got.argmax(-1).tolist()
    torch.testing.assert_close(runner.kv_cache.pool, pool_after)  # padding rows stored nothing


def geometry_of(geometry, decodes, num_rows):
    """The torch backend plans by host lengths, which a captured step only bounds: exact ones here."""
    contexts = (*(s.end for s in decodes.slices), *[0] * (num_rows - len(decodes.slices)))
    assert geometry.context_lens_B.tolist() == list(contexts)
    return replace(geometry, context_lens=contexts, positions_T=geometry.positions_T.long())


def test_the_ladder_ends_with_the_largest_batch():
    assert ladder(1) == [1]
    assert ladder(5) == [1, 2, 4, 5]
    assert ladder(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
    assert ladder(4096)[-1] == 512 and ladder(4096) == sorted(set(ladder(4096)))
