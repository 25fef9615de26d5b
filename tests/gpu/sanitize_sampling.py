"""Small launches of every path of the sampling kernel, for compute-sanitizer:

PYTHONPATH=. compute-sanitizer --tool memcheck --report-api-errors no python tests/gpu/sanitize_sampling.py
PYTHONPATH=. compute-sanitizer --tool racecheck python tests/gpu/sanitize_sampling.py
"""

import torch

from nanopd.kernels.sampling import FILTERED, PLAIN, SamplingConfig, greedy, sample


def draw(num_rows: int, vocab: int, dtype: torch.dtype, config: SamplingConfig) -> None:
    logits = (torch.randn(num_rows, vocab, device="cuda") * 2).to(dtype)
    logits[0, : vocab // 2] = 1.5  # many equal logits: the cut is looked for inside one bin
    temperature, uniform = torch.full((num_rows,), 0.7, device="cuda"), torch.rand(num_rows, device="cuda")
    top_k = torch.tensor([3, 0, 40][:num_rows], device="cuda")
    top_p, min_p = torch.full_like(uniform, 0.9), torch.full_like(uniform, 0.01)
    for tokens in (
        greedy(logits, config=config),
        sample(logits, temperature, uniform, config=config),
        sample(logits, temperature, uniform, top_k, top_p, min_p, config=config),
        sample(logits, temperature, uniform, top_k, top_p, min_p * 0, config=config),
    ):
        assert all(0 <= token < vocab for token in tokens.tolist())


def main() -> None:
    torch.manual_seed(0)
    has_clusters = torch.cuda.get_device_capability()[0] >= 9
    for config in dict.fromkeys(config for _, config in (*PLAIN, *FILTERED) if has_clusters or config.cluster == 1):
        draw(3, 4099, torch.float32, config)
        draw(2, 777, torch.bfloat16, config)
    print("finished")


if __name__ == "__main__":
    main()
