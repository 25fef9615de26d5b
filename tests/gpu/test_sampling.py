"""Sampling against the rules written out in float64."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = "cuda"
ROUNDING = 2e-5  # of a float32 sum over a vocabulary, relative


def kept(logits, temperature, top_k, top_p, min_p):
    """Probabilities of one row, zero where cut; equal logits are kept or cut together."""
    logits = logits.double()
    p = torch.softmax(logits / temperature, dim=-1)
    keep = p >= min_p * p.max()
    if top_k > 0:
        left = logits[keep]
        keep &= logits >= left.topk(min(top_k, left.numel())).values[-1]
    if top_p < 1:
        ordered, order = torch.where(keep, p, 0).sort(descending=True)
        reached = ordered.cumsum(0) >= top_p * ordered.sum()
        if reached.any():
            keep &= logits >= logits[order[reached.int().argmax()]]
    return torch.where(keep, p, 0)


def allowed(logits, temperature, top_k, top_p, min_p, uniform):
    """The tokens a float32 implementation may draw: one, unless the draw or the cut lies within rounding of an edge."""
    if temperature == 0:
        return {int((logits == logits.max()).nonzero()[0])}
    tokens = set()
    for share in {top_p, top_p * (1 - ROUNDING), min(top_p * (1 + ROUNDING), 1.0)}:
        for floor in {min_p, min_p * (1 - ROUNDING), min(min_p * (1 + ROUNDING), 1.0)}:
            cumulative = kept(logits, temperature, top_k, share, floor).cumsum(0)
            total = cumulative[-1]
            targets = total * torch.tensor([uniform, uniform - ROUNDING, uniform + ROUNDING], device=logits.device)
            found = torch.searchsorted(cumulative, targets.clamp(0, float(total) * (1 - 1e-12)), right=True)
            tokens.update(found.tolist())
    return tokens


def make_logits(num_rows, vocab, dtype, kind):
    logits = torch.randn(num_rows, vocab, device=DEVICE)
    if kind == "peaked":
        logits = logits * 2 - 3 + 14 * (torch.rand_like(logits) < 2e-4)
    elif kind == "negative":
        logits = logits - 20
    elif kind == "masked":
        logits = torch.where(torch.rand_like(logits) < 0.9, -float("inf"), logits)
        logits[:, vocab // 2] = 1.0
    return logits.to(dtype)


def parameters(num_rows):
    def pick(*values):
        return [values[i] for i in torch.randint(0, len(values), (num_rows,)).tolist()]

    return (
        pick(0.0, 0.3, 0.6, 1.0, 1.7),
        pick(0, 0, 1, 2, 20, 50, 1000, 10**6),
        pick(1.0, 1.0, 0.0, 0.5, 0.9, 0.95, 0.999),
        pick(0.0, 0.0, 0.05, 0.3, 1.0),
        pick(0.0, 0.999999) if num_rows < 3 else torch.rand(num_rows).tolist(),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["normal", "peaked", "negative", "masked"])
@pytest.mark.parametrize(("vocab", "apart"), [(151936, 0), (49152, 0), (32003, 0), (1000, 24), (7, 1)])
def test_against_float64(dtype, kind, vocab, apart):
    from nanopd.kernels import sampling

    torch.manual_seed(vocab)
    num_rows = 24
    logits = torch.nn.functional.pad(make_logits(num_rows, vocab, dtype, kind), (0, apart), value=100.0)[:, :vocab]
    temperature, top_k, top_p, min_p, uniform = parameters(num_rows)
    expected = [allowed(logits[i], temperature[i], top_k[i], top_p[i], min_p[i], uniform[i]) for i in range(num_rows)]
    unfiltered = [allowed(logits[i], temperature[i], 0, 1.0, 0.0, uniform[i]) for i in range(num_rows)]
    log_softmax = torch.log_softmax(logits.double(), dim=-1)
    floats = [torch.tensor(v, device=DEVICE, dtype=torch.float32) for v in (temperature, uniform, top_p, min_p)]
    configs = [sampling.MANY_ROWS, sampling.MANY_FILTERED_ROWS]
    if torch.cuda.get_device_capability()[0] >= 9:
        configs += [sampling.FEW_ROWS, sampling.SamplingConfig(4, 512, 2, True)]
    for config in configs:
        for index_dtype in (torch.int64, torch.int32):
            out = torch.full((num_rows,), -7, device=DEVICE, dtype=index_dtype)
            logprob = torch.full((num_rows,), float("nan"), device=DEVICE)
            sampling.sample(
                logits,
                floats[0],
                floats[1],
                torch.tensor(top_k, device=DEVICE, dtype=index_dtype),
                floats[2],
                floats[3],
                out,
                logprob,
                config=config,
            )
            wrong = [(i, int(t), expected[i]) for i, t in enumerate(out) if int(t) not in expected[i]]
            assert not wrong, wrong
            torch.testing.assert_close(
                logprob.double(), log_softmax.gather(1, out.long()[:, None])[:, 0], atol=2e-5, rtol=1e-5
            )
        plain = sampling.sample(logits, floats[0], floats[1], config=config)
        assert all(int(t) in unfiltered[i] for i, t in enumerate(plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocab", [151936, 32003, 5])
def test_greedy_takes_the_lowest_of_equals(dtype, vocab):
    from nanopd.kernels.sampling import greedy

    torch.manual_seed(vocab)
    logits = (torch.randn(64, vocab, device=DEVICE) * 4).to(dtype)
    logits[:, vocab // 3] = logits[:, vocab // 2] = logits.max()
    logits[5] = -float("inf")
    logprob = torch.full((64,), float("nan"), device=DEVICE)
    tokens = greedy(logits, logprob=logprob)
    expected = [int((row == row.max()).nonzero()[0]) for row in logits]
    assert tokens.tolist() == expected
    rows = [i for i in range(64) if i != 5]
    reference = torch.log_softmax(logits[rows].double(), -1).gather(1, tokens[rows][:, None])[:, 0]
    torch.testing.assert_close(logprob[rows].double(), reference, atol=2e-5, rtol=1e-5)


def test_equal_inputs_give_equal_tokens():
    from nanopd.kernels.sampling import sample

    torch.manual_seed(0)
    row = make_logits(1, 151936, torch.bfloat16, "normal")
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
