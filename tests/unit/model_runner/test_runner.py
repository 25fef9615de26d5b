"""ModelRunner on tiny random models, steps made by hand."""

import math
from array import array

import pytest
import torch
from support.tiny_models import GREEDY, batch, block_table, dummy_folder, greedy_spec, piece

from nanopd.batch import SampleSpec
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.errors import ConfigError
from nanopd.model_runner import ModelRunner
from nanopd.model_runner.device import resolve_device, resolve_dtype
from nanopd.request import SamplingParams

BLOCK_SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return dummy_folder(tmp_path_factory.mktemp("model"))


def load(folder, **options):
    cache = options.pop("cache", CacheConfig(block_size=BLOCK_SIZE, num_blocks=16))
    config = EngineConfig(
        model=folder,
        load_format="dummy",
        device="cpu",
        dtype="float32",
        num_threads=1,
        cache=cache,
        scheduler=SchedulerConfig(),
        **options,
    )
    return ModelRunner.load(config)


@pytest.fixture
def runner(folder):
    return load(folder)


def spec(**params):
    return SampleSpec(SamplingParams(**{"temperature": 0.0, **params}), 0.5, (), ())


def generate(runner, prompt, table, num_tokens):
    tokens = list(runner.submit(batch(piece("a", prompt, 0, table, greedy_spec()))).result().token_ids)
    while len(tokens) < num_tokens:
        step = batch(piece("a", tokens[-1:], len(prompt) + len(tokens) - 1, table, greedy_spec()))
        tokens += runner.submit(step).result().token_ids
    return tokens


def test_mixed_steps_give_every_sequence_what_it_gets_alone(runner):
    prompts = {"a": [5, 6, 7], "b": list(range(10, 30)), "c": [50] * 9}
    tables = {"a": block_table(0, 1), "b": block_table(4, 2, 9), "c": block_table(7, 5)}
    alone = {name: generate(runner, prompts[name], tables[name], 3) for name in prompts}
    first = runner.submit(batch(piece("a", prompts["a"], 0, tables["a"], greedy_spec()))).result().token_ids
    # a decodes while b is half way through its prompt and c's comes whole.
    mixed = batch(
        piece("a", first, 3, tables["a"], greedy_spec()),
        piece("b", prompts["b"][:13], 0, tables["b"]),
        piece("c", prompts["c"], 0, tables["c"], greedy_spec()),
    )
    second = runner.submit(mixed).result().token_ids
    third = runner.submit(batch(piece("b", prompts["b"][13:], 13, tables["b"], greedy_spec()))).result().token_ids
    assert [first[0], second[0]] == alone["a"][:2]
    assert second[1] == alone["c"][0]
    assert third == alone["b"][:1]


def test_a_step_may_take_its_ids_from_the_step_before(runner):
    tables = [block_table(0, 1), block_table(2, 3)]
    expected = [
        generate(runner, prompt, table, 2)[1] for prompt, table in zip(([5, 6], [7, 8, 9]), tables, strict=True)
    ]
    prefill = batch(piece("a", [5, 6], 0, tables[0], greedy_spec()), piece("b", [7, 8, 9], 0, tables[1], greedy_spec()))
    handles = [runner.submit(prefill)]
    handles.append(
        runner.submit(
            batch(
                piece("b", [0], 3, tables[1], greedy_spec(), previous_row=1),
                piece("a", [0], 2, tables[0], greedy_spec(), previous_row=0),
            )
        )
    )
    assert [handle.result() for handle in handles][1].token_ids == expected[::-1]


def test_writing_a_forked_block_leaves_the_sibling_bit_unchanged(runner):
    shared, mine, copy = 3, 4, 6
    table = block_table(shared, mine)
    prompt = list(range(30, 43))
    first = generate(runner, prompt, table, 1)
    sibling = runner.kv_cache.gather([shared, mine])
    # The fork writes position 13, in the half-filled second block: copied first.
    fork = batch(piece("fork", [77], 13, block_table(shared, copy), greedy_spec()), block_copies=((mine, copy),))
    forked = runner.submit(fork).result().token_ids
    assert torch.equal(runner.kv_cache.gather([shared, mine]), sibling)
    assert torch.equal(runner.kv_cache.gather([copy])[..., :5, :], sibling[:, 1:, ..., :5, :])
    assert forked == generate(runner, [*prompt, 77], block_table(8, 9), 1)
    # And the sibling goes on as if nothing had happened.
    onward = runner.submit(batch(piece("a", first, 13, table, greedy_spec()))).result().token_ids
    assert onward == generate(runner, [*prompt, *first], block_table(8, 9), 1)


def reference_logprobs(runner, token_ids):
    """log softmax at every position, by the decoder's own logits in one pass."""
    captured = []
    decoder = runner._decoder
    original = decoder.logits
    decoder.logits = lambda hidden, out=None: captured.append(original(hidden)) or captured[-1]
    ends = [
        piece(str(n), token_ids[:n], 0, array("i", [10, 11, 12]), greedy_spec()) for n in range(1, len(token_ids) + 1)
    ]
    for end in ends:
        runner.submit(batch(end)).result()
    decoder.logits = original
    return torch.cat(captured).double().log_softmax(-1)


def test_logprobs_are_those_of_the_raw_logits(runner):
    prompt = [3, 14, 15, 92, 65]
    expected = reference_logprobs(runner, prompt)[-1]
    params = {"logit_bias": {20: 50.0}, "logprobs": 3}
    result = runner.submit(
        batch(
            piece("a", [1, 2], 0, block_table(0), spec()),
            piece("b", prompt, 0, block_table(1), spec(**params)),
            piece("c", prompt, 0, block_table(2), spec(logprobs=0)),
        )
    ).result()
    assert result.token_ids[1] == 20 and result.logprobs[0] is None
    entry = result.logprobs[1]
    assert entry.token_id == 20 and math.isclose(entry.logprob, float(expected[20]), abs_tol=1e-4)
    top = expected.topk(3)
    assert [token for token, _ in entry.top] == top.indices.tolist()
    torch.testing.assert_close(torch.tensor([value for _, value in entry.top]), top.values.float(), atol=1e-4, rtol=0)
    assert result.logprobs[2].top == ()


def test_prompt_logprobs_of_chunks_join_to_those_of_the_whole(runner):
    prompt = [3, 14, 15, 92, 65, 35, 89]
    expected = reference_logprobs(runner, prompt)
    entries = []
    for start, end in ((0, 3), (3, 7)):
        targets = prompt[start + 1 : end + 1]
        chunk = piece(
            "a",
            prompt[start:end],
            start,
            block_table(0),
            greedy_spec() if end == 7 else None,
            prompt_logprobs=2,
            logprob_targets=targets,
        )
        entries += runner.submit(batch(chunk)).result().prompt_logprobs["a"]
    assert [entry.token_id for entry in entries] == prompt[1:]
    for position, entry in enumerate(entries):
        assert math.isclose(entry.logprob, float(expected[position, prompt[position + 1]]), abs_tol=1e-4)
        assert [token for token, _ in entry.top] == expected[position].topk(2).indices.tolist()


def test_suppressed_tokens_and_penalties_reach_the_row_they_belong_to(runner):
    prompt = [3, 14, 15]
    best = generate(runner, prompt, block_table(0), 1)[0]
    suppressed = SampleSpec(GREEDY, 0.0, (), (), suppressed_token_ids=(best,))
    repeated = SampleSpec(
        SamplingParams(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0), 0.0, prompt, [best] * 9
    )
    step = batch(
        *(piece(str(i), prompt, 0, block_table(i), s) for i, s in enumerate((greedy_spec(), suppressed, repeated)))
    )
    plain, without, penalised = runner.submit(step).result().token_ids
    assert plain == best and without != best and penalised != best


def test_a_failing_step_raises_at_its_result(runner):
    handle = runner.submit(batch(piece("a", [1_000_000], 0, block_table(0), greedy_spec())))
    assert handle.done()
    with pytest.raises(IndexError):
        handle.result()
    assert len(generate(runner, [1, 2], block_table(0), 2)) == 2  # the next step is none the worse


def test_the_pool_bounds_the_context_and_is_what_the_caller_allocates(folder):
    sizes = []

    def allocate(num_bytes):
        sizes.append(num_bytes)
        return torch.zeros(num_bytes, dtype=torch.uint8)

    runner = ModelRunner.load(
        EngineConfig(
            model=folder, load_format="dummy", device="cpu", dtype="float32", num_threads=1, cache=CacheConfig(8, 5)
        ),
        allocate_kv=allocate,
    )
    assert runner.max_model_len == 40
    assert sizes == [runner.kv_cache.pool.numel() * 4]
    with pytest.raises(ConfigError, match="max_model_len must fit the KV pool of 40 tokens, got 64"):
        load(folder, cache=CacheConfig(8, 5), max_model_len=64)
    with pytest.raises(ConfigError, match="max_model_len must be at most the model's 256, got 1000"):
        load(folder, max_model_len=1000)


def test_devices_and_dtypes_are_resolved_or_refused():
    assert resolve_dtype("float16", torch.device("cpu")) == "float16"
    assert resolve_dtype("auto", torch.device("cpu")) in ("float32", "bfloat16")
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device must be auto, cpu, cuda or cuda:N, got 'abacus'"):
        resolve_device("abacus")
    with pytest.raises(ConfigError, match="device cuda:99 does not exist"):
        resolve_device("cuda:99")


def test_the_cuda_backend_is_refused_where_it_cannot_run(folder):
    with pytest.raises(ConfigError, match="attention_backend cuda needs a CUDA device"):
        load(folder, attention_backend="cuda")
