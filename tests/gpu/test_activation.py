"""silu_mul and embedding against torch."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = "cuda"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("intermediate", [8, 1536, 3072, 12288, 18944])
def test_silu_mul_against_float64(dtype, intermediate):
    from nanopd.kernels.activation import silu_mul

    torch.manual_seed(intermediate)
    for num_tokens in (1, 7, 300):
        gate_up = torch.randn(num_tokens, 2 * intermediate + 8, device=DEVICE, dtype=dtype)[:, : 2 * intermediate] * 4
        gate_up = torch.nn.functional.pad(gate_up, (0, 8))[:, : 2 * intermediate]
        gate_up[0, 0] = -60  # exp overflows in the other direction
        out = torch.full((num_tokens, intermediate), float("nan"), device=DEVICE, dtype=dtype)
        silu_mul(gate_up, out)
        gate, up = gate_up.double().chunk(2, dim=-1)
        reference = torch.nn.functional.silu(gate) * up
        error = (out.double() - reference).norm() / reference.norm()
        assert error < (3e-3 if dtype == torch.bfloat16 else 4e-4)


def test_silu_of_very_negative_gates_is_zero():
    from nanopd.kernels.activation import silu_mul

    gate_up = torch.full((1, 16), -30000.0, device=DEVICE, dtype=torch.bfloat16)
    assert torch.equal(silu_mul(gate_up), torch.zeros(1, 8, device=DEVICE, dtype=torch.bfloat16))


@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("hidden", [8, 576, 4096, 8192])
def test_embedding(ids_dtype, hidden):
    from nanopd.kernels.embedding import embedding

    table = torch.randn(1000, hidden, device=DEVICE, dtype=torch.bfloat16)
    ids = torch.randint(0, 1000, (77,), device=DEVICE, dtype=ids_dtype)
    out = torch.full((77, hidden), float("nan"), device=DEVICE, dtype=torch.bfloat16)
    embedding(ids, table, out)
    assert torch.equal(out, table[ids.long()])
    wide = torch.full((77, hidden), float("nan"), device=DEVICE)
    assert torch.equal(embedding(ids, table, wide), table[ids.long()].float())
    ids[3], ids[4] = -1, 1000
    embedding(ids, table, out)
    assert not out[3].any() and not out[4].any() and torch.equal(out[5:], table[ids[5:].long()])
