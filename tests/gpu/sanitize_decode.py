"""Small launches of decode, rope_store and move_blocks, to be run under a checker:

compute-sanitizer --tool memcheck --report-api-errors no python tests/gpu/sanitize_decode.py
compute-sanitizer --tool racecheck python tests/gpu/sanitize_decode.py
"""

import torch

from nanopd.kernels.block_copy import move_blocks
from nanopd.kernels.paged_decode import paged_decode
from nanopd.kernels.rope_store import rope_store


def decode(lengths, num_kv_heads, group, head_dim, block_size):
    lens = torch.tensor(lengths, dtype=torch.int32, device="cuda")
    width = -(-max(lengths) // block_size)
    kv = torch.randn(len(lengths) * width, 2, num_kv_heads, block_size, head_dim, device="cuda").bfloat16()
    tables = torch.randperm(len(lengths) * width, device="cuda", dtype=torch.int32).view(len(lengths), width)
    q = torch.randn(len(lengths), num_kv_heads * group, head_dim, device="cuda").bfloat16()
    lse = torch.empty(q.shape[:2], device="cuda")
    assert paged_decode(q, kv, tables, lens, lse=lse)[lens > 0].isfinite().all()


def main():
    torch.manual_seed(0)
    decode([1, 17, 300, 0, 40], 2, 4, 128, 16)
    decode([700, 5], 1, 16, 256, 8)
    decode([33] * 150, 2, 2, 64, 64)
    qkv = torch.randn(5, 12 * 64, device="cuda").bfloat16()
    kv = torch.zeros(4, 2, 2, 16, 64, device="cuda").bfloat16()
    slots = torch.tensor([3, -1, 0, 17, 63], device="cuda")
    weight = torch.ones(64, device="cuda").bfloat16()
    rope_store(qkv, slots.clamp(min=0), torch.randn(64, 64, device="cuda"), kv, slots, 8, weight, weight)
    pool, ids = torch.randn(3, 6, 2, 2, 16, 64, device="cuda").bfloat16(), torch.arange(6, device="cuda").int()
    move_blocks(pool, ids[:3].contiguous(), pool, ids[3:].contiguous(), max_ctas=2)
    torch.cuda.synchronize()
    print("finished")


if __name__ == "__main__":
    main()
