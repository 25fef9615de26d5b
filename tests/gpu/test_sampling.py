"""Sampling against the rules written out in float64."""

import pytest
import torch
from support.sampling_oracle import allowed, make_crowd, make_logits, make_parameters

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = "cuda"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["normal", "peaked", "negative", "masked"])
@pytest.mark.parametrize(("vocab", "apart"), [(151936, 0), (49152, 0), (32003, 0), (1000, 24), (7, 1)])
def test_against_float64(dtype, kind, vocab, apart):
    from nanopd.kernels import sampling

    torch.manual_seed(vocab)
    num_rows = 24
    logits = torch.nn.functional.pad(make_logits(num_rows, vocab, dtype, kind, DEVICE), (0, apart), value=100.0)[
        :, :vocab
    ]
    temperature, top_k, top_p, min_p, uniform = make_parameters(num_rows)
    expected = [allowed(logits[i], temperature[i], top_k[i], top_p[i], min_p[i], uniform[i]) for i in range(num_rows)]
    unfiltered = [allowed(logits[i], temperature[i], 0, 1.0, 0.0, uniform[i]) for i in range(num_rows)]
    floats = [torch.tensor(v, device=DEVICE, dtype=torch.float32) for v in (temperature, uniform, top_p, min_p)]
    for config in every_config():
        for index_dtype in (torch.int64, torch.int32):
            out = torch.full((num_rows,), -7, device=DEVICE, dtype=index_dtype)
            cuts = (torch.tensor(top_k, device=DEVICE, dtype=index_dtype), floats[2], floats[3])
            sampling.sample(logits, floats[0], floats[1], *cuts, out, config=config)
            wrong = [(i, int(t), expected[i]) for i, t in enumerate(out) if int(t) not in expected[i]]
            assert not wrong, (config, wrong)
        plain = sampling.sample(logits, floats[0], floats[1], config=config)
        assert all(int(t) in unfiltered[i] for i, t in enumerate(plain))


def every_config():
    from nanopd.kernels import sampling

    configs = {config for _, config in (*sampling.PLAIN, *sampling.FILTERED)} | {sampling.SamplingConfig(8, 256, 4)}
    has_clusters = torch.cuda.get_device_capability()[0] >= 9
    return sorted((c for c in configs if has_clusters or c.cluster == 1), key=lambda c: (c.cluster, c.threads))


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4])
@pytest.mark.parametrize("high", [0.05, 3.0, 30.0])
def test_cuts_among_logits_that_are_almost_equal(spread, high):
    """Thousands of tokens in one bin of the first histogram: the cut must still fall between the right two."""
    from nanopd.kernels import sampling

    torch.manual_seed(0)
    num_rows, vocab = 16, 60000
    logits = make_crowd(num_rows, vocab, high, spread, DEVICE)
    temperature, uniform = torch.full((num_rows,), 0.7, device=DEVICE), torch.rand(num_rows, device=DEVICE)
    top_k = torch.randint(1, 4000, (num_rows,), device=DEVICE)
    top_p = torch.where(torch.rand_like(uniform) < 0.5, 1.0, 0.1 + 0.8 * torch.rand_like(uniform))
    min_p = torch.zeros_like(uniform)
    expected = [
        allowed(logits[i], 0.7, int(top_k[i]), float(top_p[i]), 0.0, float(uniform[i])) for i in range(num_rows)
    ]
    for config in every_config():
        tokens = sampling.sample(logits, temperature, uniform, top_k, top_p, min_p, config=config)
        wrong = [(i, int(t), expected[i]) for i, t in enumerate(tokens) if int(t) not in expected[i]]
        assert not wrong, (config, wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocab", [151936, 32003, 5])
def test_greedy_takes_the_lowest_of_equals(dtype, vocab):
    from nanopd.kernels.sampling import greedy

    torch.manual_seed(vocab)
    logits = (torch.randn(64, vocab, device=DEVICE) * 4).to(dtype)
    logits[:, vocab // 3] = logits[:, vocab // 2] = logits.max()
    logits[5] = -float("inf")
    expected = [int((row == row.max()).nonzero()[0]) for row in logits]
    assert greedy(logits).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_equal_inputs_give_equal_tokens(dtype):
    from nanopd.kernels.sampling import sample

    torch.manual_seed(0)
    row = make_logits(1, 151936, dtype, "normal", DEVICE)
    logits = row.expand(256, -1)
    ones = torch.ones(256, device=DEVICE)
    uniform = torch.rand(1, device=DEVICE).expand(256).contiguous()
    top_k = torch.full((256,), 500, device=DEVICE)
    tokens = sample(logits, ones, uniform, top_k, ones * 0.95, ones * 0.01)
    assert len(set(tokens.tolist())) == 1


def test_draws_follow_the_distribution():
    from nanopd.kernels.sampling import sample

    torch.manual_seed(0)
    num = 65536
    logits = torch.tensor([[1.0, 2.0, 0.5, 3.0, -1.0]], device=DEVICE).expand(num, -1)
    ones = torch.ones(num, device=DEVICE)
    counts = sample(logits, ones, torch.rand(num, device=DEVICE)).bincount(minlength=5)
    expected = torch.softmax(logits[0], -1)
    assert (counts / num - expected).abs().max() < 0.01
