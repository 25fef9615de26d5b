"""A small ragged batch through each prefill kernel, for compute-sanitizer:

PYTHONPATH=. compute-sanitizer --tool memcheck --report-api-errors no python tests/gpu/sanitize_prefill.py
PYTHONPATH=. compute-sanitizer --tool racecheck --num-cuda-barriers 64 python tests/gpu/sanitize_prefill.py
"""

import torch

from nanopd.kernels.paged_prefill import paged_prefill

# The second batch is split along its keys.
BATCHES = (((40, 333), (1, 70), (0, 9), (129, 129)), ((20, 1500), (2, 700)))
H, K, D, S = 8, 2, 128, 16


def attend(lengths: tuple[tuple[int, int], ...], path: str) -> None:
    q_lens, context_lens = zip(*lengths, strict=True)
    device = torch.device("cuda")
    q = torch.randn(sum(q_lens), H, D, device=device).bfloat16()
    widths = [-(-length // S) for length in context_lens]
    kv = torch.randn(sum(widths), 2, K, S, D, device=device).bfloat16()
    block_tables = torch.zeros(len(widths), max(widths), dtype=torch.int32, device=device)
    for row, blocks in zip(block_tables, torch.randperm(sum(widths), device=device).int().split(widths), strict=True):
        row[: len(blocks)] = blocks
    paged_prefill(
        q,
        kv,
        block_tables,
        torch.tensor([0, *q_lens], device=device).cumsum(0).int(),
        torch.tensor(context_lens, dtype=torch.int32, device=device),
        max_q_len=max(q_lens),
        max_context_len=max(context_lens),
        scale=D**-0.5,
        out=torch.empty_like(q),
        path=path,  # type: ignore[arg-type]
    )


def main() -> None:
    for path in ("generic", "sm90") if torch.cuda.get_device_capability()[0] == 9 else ("generic",):
        for lengths in BATCHES:
            attend(lengths, path)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
