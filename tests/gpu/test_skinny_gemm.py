"""The skinny GEMM and its epilogues against float64, alone and one after the other under PDL."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 9,
        reason="needs a GPU of sm_90 or later",
    ),
]

DEVICE = "cuda"
SHAPES = [
    (6144, 4096),
    (4096, 12288),
    (24576, 4096),
    (1152, 512),
    (32, 1024),
    (3584, 18944),
    (48, 4608),
    (151936, 1024),
]


def error(out, reference):
    return ((out.double() - reference).norm() / reference.norm()).item()


def make(m, n, k, dtype):
    x = torch.randn(m, k + 64, device=DEVICE, dtype=dtype)[:, :k]
    return x, torch.randn(n, k, device=DEVICE, dtype=dtype) / k**0.5, torch.randn(n, device=DEVICE, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_against_float64(dtype, n, k):
    from nanopd.kernels.skinny_gemm import skinny_linear, skinny_linear_silu_mul

    tolerance = 3e-3 if dtype == torch.bfloat16 else 4e-4
    torch.manual_seed(n + k)
    for m in (1, 3, 8, 9, 16, 17, 32, 50, 64, 100, 128, 129, 200, 256, 300, 512):
        x, weight, bias = make(m, n, k, dtype)
        plain = x.double() @ weight.double().T
        for with_bias in (False, True):
            product = plain + bias.double() if with_bias else plain
            given_bias = bias if with_bias else None
            out = torch.full((m, n), float("nan"), device=DEVICE, dtype=dtype)
            assert error(skinny_linear(x, weight, given_bias, out), product) < tolerance
            out = torch.full((m, n), float("nan"), device=DEVICE)
            assert error(skinny_linear(x, weight, given_bias, out), product) < 1e-4
            out = torch.full((m, n // 2), float("nan"), device=DEVICE, dtype=dtype)
            gate, up = product.chunk(2, dim=-1)
            expected = torch.nn.functional.silu(gate) * up
            assert error(skinny_linear_silu_mul(x, weight, given_bias, out), expected) < tolerance


@pytest.mark.parametrize("m", [1, 8, 16, 32, 64, 128, 200, 256, 384])
def test_a_chain_under_pdl_equals_the_chain_without(m):
    """Each kernel starts while the one before still runs; a missing wait would show as a different sum."""
    from nanopd.kernels.norm import add_rms_norm, rms_norm
    from nanopd.kernels.skinny_gemm import skinny_linear, skinny_linear_silu_mul

    torch.manual_seed(m)
    hidden, wide = 1024, 4096
    layers = [
        tuple(
            torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16) / k**0.5
            for n, k in ((hidden, hidden), (hidden, hidden), (2 * wide, hidden), (hidden, wide))
        )
        for _ in range(4)
    ]
    norm = torch.ones(hidden, device=DEVICE, dtype=torch.bfloat16)
    start = torch.randn(m, hidden, device=DEVICE, dtype=torch.bfloat16)

    def run(pdl):
        stream = start.float()
        x = rms_norm(stream, norm, 1e-6, pdl=pdl)
        for first, second, gate_up, down in layers:
            x = skinny_linear(skinny_linear(x, first, pdl=pdl), second, pdl=pdl)
            x = add_rms_norm(x, stream, norm, 1e-6, pdl=pdl)
            x = skinny_linear(skinny_linear_silu_mul(x, gate_up, pdl=pdl), down, pdl=pdl)
            x = add_rms_norm(x, stream, norm, 1e-6, pdl=pdl)
        return stream

    expected = run(pdl=False)
    for _ in range(20):
        assert torch.equal(run(pdl=True), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(pdl=True)
    for _ in range(20):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, expected)


@pytest.mark.parametrize("rows", [32, 64, 96, 128, 160, 192])
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_every_tile_and_split(rows, splits):
    from nanopd.kernels.skinny_gemm import skinny_linear, skinny_linear_silu_mul
    from nanopd.kernels.stream_gemm import StreamConfig

    torch.manual_seed(rows + splits)
    config = StreamConfig(rows, splits)
    shapes = [(5, 592, 2112), (33, 208, 2048), (64, 1024, 1024), (77, 416, 4096), (128, 1024, 2560)]
    if config.stages(256) > 1:
        shapes += [(130, 592, 2112), (192, 208, 2048), (256, 1024, 2560), (600, 208, 4096)]
    for m, n, k in shapes:
        x, weight, bias = make(m, n, k, torch.bfloat16)
        product = x.double() @ weight.double().T + bias.double()
        out = torch.full((m, n), float("nan"), device=DEVICE, dtype=torch.bfloat16)
        assert error(skinny_linear(x, weight, bias, out, config=config), product) < 3e-3
        if rows // 2 % (8 * splits):
            continue
        out = torch.full((m, n // 2), float("nan"), device=DEVICE, dtype=torch.bfloat16)
        gate, up = product.chunk(2, dim=-1)
        expected = torch.nn.functional.silu(gate) * up
        assert error(skinny_linear_silu_mul(x, weight, bias, out, config=config), expected) < 3e-3


def test_bad_arguments():
    from nanopd.kernels.skinny_gemm import skinny_linear

    x, weight, _ = make(1, 64, 512, torch.bfloat16)
    with pytest.raises(ValueError, match="weight must have shape"):
        skinny_linear(x, weight[:, :256])
    with pytest.raises(ValueError, match="a multiple of 64"):
        skinny_linear(
            torch.zeros(9, 520, device=DEVICE, dtype=torch.bfloat16), torch.cat([weight, weight[:, :8]], dim=1)
        )
