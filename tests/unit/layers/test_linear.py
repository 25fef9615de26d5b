import pytest
import torch

from nanopd.layers import linear as module
from nanopd.layers.linear import linear, linear_float32, linear_silu_mul


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("num_rows", [1, 3, 4, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_on_any_cpu(monkeypatch, has_bf16, num_rows, dtype):
    monkeypatch.setattr(module, "cpu_multiplies_bf16", lambda: has_bf16)
    torch.manual_seed(num_rows)
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((num_rows, 48), (64, 48), (64,)))
    exact = x.double() @ weight.double().T + bias.double()
    gate, up = exact.chunk(2, -1)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    got = linear(x, weight, bias)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, atol=tolerance, rtol=tolerance)
    activated = linear_silu_mul(x, weight, bias)
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(activated.double(), expected, atol=6 * tolerance, rtol=2 * tolerance)


@pytest.mark.parametrize("num_rows", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_columns", [64, 1024, 2500])
def test_float32_results_are_not_rounded(num_rows, dtype, num_columns):
    torch.manual_seed(num_columns)
    x, weight = torch.randn(num_rows, 48).to(dtype), torch.randn(num_columns, 48).to(dtype)
    exact = x.double() @ weight.double().T
    out = torch.full((num_rows, num_columns), float("nan"))
    assert linear_float32(x, weight, out) is out
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=1e-5)
    assert torch.equal(linear_float32(x, weight), out)
