"""rms_norm and add_rms_norm against float64."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = "cuda"
HIDDENS = [8, 576, 896, 1024, 2048, 3584, 4096, 5120, 8192, 16384]


def error(out, reference):
    return ((out.double() - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", HIDDENS)
@pytest.mark.parametrize("add", [None, "like x", "float32", "nothing to a float32 stream"])
def test_against_float64(dtype, hidden, add):
    from nanopd.kernels.norm import add_rms_norm, rms_norm

    torch.manual_seed(hidden)
    for num_tokens, apart in ((1, 0), (3, 8), (257, 64)):
        # Rows of a wider tensor: the stride is not the row length.
        x = torch.randn(num_tokens, hidden + apart, device=DEVICE, dtype=dtype)[:, :hidden] * 3
        x = torch.nn.functional.pad(x, (0, apart))[:, :hidden]
        stream_dtype = torch.float32 if add == "float32" else dtype
        residual = torch.randn(num_tokens, hidden + apart, device=DEVICE, dtype=stream_dtype)[:, :hidden]
        weight = torch.randn(hidden, device=DEVICE, dtype=dtype)
        out = torch.full((num_tokens, hidden), float("nan"), device=DEVICE, dtype=dtype)
        stream = x.double()
        if add == "nothing to a float32 stream":
            x = torch.nn.functional.pad(x.float() * 1.01, (0, apart))[:, :hidden]
            stream = x.double()
            rms_norm(x, weight, 1e-6, out)
        elif add:
            stream = (x.float() + residual.float()).to(stream_dtype).double()
            add_rms_norm(x, residual, weight, 1e-6, out)
            assert torch.equal(residual.double(), stream)
        else:
            rms_norm(x, weight, 1e-6, out)
        reference = stream * (stream.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
        assert error(out, reference) < (3e-3 if dtype == torch.bfloat16 else 4e-4)


def test_in_place_and_empty():
    from nanopd.kernels.norm import rms_norm

    x = torch.randn(5, 4096, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.ones(4096, device=DEVICE, dtype=torch.bfloat16)
    expected = rms_norm(x, weight, 1e-5)
    assert rms_norm(x, weight, 1e-5, out=x) is x
    assert torch.equal(x, expected)
    assert rms_norm(x[:0], weight, 1e-5).shape == (0, 4096)


def test_bad_arguments():
    from nanopd.kernels.norm import rms_norm

    x = torch.randn(2, 64, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.ones(64, device=DEVICE, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="bfloat16 or float16"):
        rms_norm(x.float(), weight.float(), 1e-5)
    with pytest.raises(ValueError, match="weight must be"):
        rms_norm(x, weight.half(), 1e-5)
    with pytest.raises(ValueError, match="weight must have shape"):
        rms_norm(x, weight[:32], 1e-5)
    with pytest.raises(ValueError, match="multiple of 8 up to 16384"):
        rms_norm(torch.zeros(1, 16392, device=DEVICE, dtype=torch.bfloat16), weight, 1e-5)
