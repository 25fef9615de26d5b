"""Small products through both skinny GEMMs, each epilogue, for compute-sanitizer:

PYTHONPATH=. compute-sanitizer --tool memcheck --report-api-errors no python tests/gpu/sanitize_linear.py
PYTHONPATH=. compute-sanitizer --tool racecheck --num-cuda-barriers 64 python tests/gpu/sanitize_linear.py
"""

import torch

from nanopd.kernels import stream_gemm
from nanopd.kernels.skinny_gemm import skinny_linear, skinny_linear_silu_mul


def multiply(m: int, n: int, k: int) -> None:
    x, weight = torch.randn(m, k, device="cuda").bfloat16(), torch.randn(n, k, device="cuda").bfloat16()
    if m > 8 and not stream_gemm.supports(m, n, k, x.device):
        return
    reference = x.double() @ weight.double().T
    outs = [
        (skinny_linear(x, weight, torch.zeros(n, device="cuda").bfloat16()), reference),
        (skinny_linear(x, weight, out=torch.empty(m, n, device="cuda")), reference),
    ]
    gate, up = reference.bfloat16().double().split(n // 2, dim=1)
    outs.append((skinny_linear_silu_mul(x, weight), torch.nn.functional.silu(gate) * up))
    for out, expected in outs:
        assert (out.double() - expected).norm() < 2e-2 * expected.norm()


def main() -> None:
    torch.manual_seed(0)
    for m in (1, 5, 16, 33, 70, 140, 256, 300):
        multiply(m, 384, 1024)
        multiply(m, 640, 512)
    print("finished")


if __name__ == "__main__":
    main()
