"""paged_decode against float64, over every head dim, group size and block size, with poisoned outputs."""

import random

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = "cuda"


def paged_kv(context_lens, num_kv_heads, block_size, head_dim, dtype):
    """Random KV in shuffled blocks; what no sequence owns is NaN, so that reading it shows."""
    counts = [-(-length // block_size) for length in context_lens]
    num_blocks = sum(counts) + 3
    kv = torch.full((num_blocks, 2, num_kv_heads, block_size, head_dim), float("nan"), dtype=dtype, device=DEVICE)
    ids = torch.randperm(num_blocks, device=DEVICE, dtype=torch.int32)
    tables = torch.full((len(context_lens), max(counts, default=0) + 2), 2**30, dtype=torch.int32, device=DEVICE)
    start = 0
    for row, (count, length) in enumerate(zip(counts, context_lens, strict=True)):
        tables[row, :count] = ids[start : start + count]
        start += count
        for index in range(count):
            keys = min(block_size, length - index * block_size)
            kv[tables[row, index], :, :, :keys] = torch.randn(2, num_kv_heads, keys, head_dim, device=DEVICE).to(dtype)
    return kv, tables


def reference(q, kv, tables, context_lens, scale):
    """Plain attention in float64, one sequence at a time; also the log-sum-exp."""
    group = q.shape[1] // kv.shape[2]
    out = torch.zeros(q.shape, dtype=torch.float64, device=DEVICE)
    lse = torch.full(q.shape[:2], float("-inf"), dtype=torch.float64, device=DEVICE)
    for row, length in enumerate(context_lens):
        if length == 0:
            continue
        blocks = kv[tables[row, : -(-length // kv.shape[3])].long()]  # [n, 2, Hk, block_size, D]
        keys, values = blocks.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :length].double()
        scores = scale * torch.einsum("hgd,hkd->hgk", q[row].double().unflatten(0, (-1, group)), keys)
        out[row] = torch.einsum("hgk,hkd->hgd", scores.softmax(-1), values).flatten(0, 1)
        lse[row] = scores.logsumexp(-1).flatten()
    return out, lse


def check(context_lens, num_kv_heads, group, head_dim, block_size, dtype=torch.bfloat16, **options):
    from nanopd.kernels.paged_decode import paged_decode

    kv, tables = paged_kv(context_lens, num_kv_heads, block_size, head_dim, dtype)
    q = torch.randn(len(context_lens), num_kv_heads * group, head_dim, device=DEVICE).to(dtype)
    lens = torch.tensor(context_lens, dtype=torch.int32, device=DEVICE)
    out, lse = torch.full_like(q, float("nan")), torch.full(q.shape[:2], float("nan"), device=DEVICE)
    scale = 0.7 / head_dim**0.5
    paged_decode(q, kv, tables, lens, scale=scale, out=out, lse=lse, **options)
    want, want_lse = reference(q, kv, tables, context_lens, scale)
    real = lens > 0
    error = ((out[real].double() - want[real]).norm() / want.norm()).item()
    assert error < 5e-3, f"relative error {error}"
    assert torch.allclose(lse[real].double(), want_lse[real], atol=1e-3, rtol=1e-4)
    assert out[~real].isnan().all(), "rows of padding are left as they are"
    return error


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("group", [1, 2, 4, 7, 8, 12, 16])
def test_head_shapes(head_dim, group):
    torch.manual_seed(head_dim + group)
    check([1, 17, 300, 1025, 0, 64], 2, group, head_dim, 16)
    check([4097], 2, group, head_dim, 16, dtype=torch.float16)


@pytest.mark.parametrize("block_size", [8, 16, 32, 64])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_block_sizes(block_size, head_dim):
    torch.manual_seed(block_size)
    check([5, 8, 9, 511, 512, 513, 2000], 3, 4, head_dim, block_size)


@pytest.mark.parametrize("seed", range(6))
def test_ragged_batches(seed):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    size = draw.choice([1, 3, 33, 200, 600])
    longest = draw.choice([20, 200, 2000])
    check([draw.randint(0, longest) for _ in range(size - 1)] + [longest], 8, 4, 128, 16)


def test_long_context():
    torch.manual_seed(0)
    check([32768, 1, 31, 20001], 8, 4, 128, 16)


@pytest.mark.parametrize(("num_kv_heads", "group", "head_dim"), [(1, 16, 256), (1, 3, 64), (3, 3, 128), (1, 8, 128)])
def test_items_shared_by_many_ctas(num_kv_heads, group, head_dim):
    """Few kv heads, one long context: all CTAs work on the same items, more parts than a warp has lanes."""
    from nanopd.kernels.paged_decode import DecodeWorkspace

    torch.manual_seed(3)
    workspace = DecodeWorkspace.allocate(group, head_dim, torch.device(DEVICE))
    for lengths in ([30000], [9000, 0, 20000, 77]):
        check(lengths, num_kv_heads, group, head_dim, 16, workspace=workspace)
    assert not workspace.arrivals.any()


def test_all_rows_are_padding():
    from nanopd.kernels.paged_decode import paged_decode

    kv, tables = paged_kv([16], 2, 16, 64, torch.bfloat16)
    q = torch.randn(3, 4, 64, device=DEVICE).bfloat16()
    lens = torch.zeros(3, dtype=torch.int32, device=DEVICE)
    out = paged_decode(q, kv, tables.expand(3, -1).contiguous(), lens, out=torch.full_like(q, float("nan")))
    assert out.isnan().all()


def test_captured_graph_follows_growing_contexts():
    """One capture, one workspace, many lengths: the device decides the split, and the counters reset themselves."""
    from nanopd.kernels.paged_decode import DecodeWorkspace, paged_decode

    torch.manual_seed(1)
    longest = [3000, 700, 5000, 40]
    kv, tables = paged_kv(longest, 8, 16, 128, torch.bfloat16)
    q = torch.randn(4, 32, 128, device=DEVICE).bfloat16()
    lens = torch.tensor(longest, dtype=torch.int32, device=DEVICE)
    out = torch.empty_like(q)
    workspace = DecodeWorkspace.allocate(4, 128, q.device)
    paged_decode(q, kv, tables, lens, out=out, workspace=workspace)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        paged_decode(q, kv, tables, lens, out=out, workspace=workspace)
    for lengths in ([1, 1, 1, 1], [100, 0, 4999, 40], [3000, 700, 5000, 40], [0, 0, 333, 0], [2999, 1, 16, 17]):
        lens.copy_(torch.tensor(lengths, dtype=torch.int32))
        out.fill_(float("nan"))
        graph.replay()
        want, _ = reference(q, kv, tables, lengths, 128**-0.5)
        error = out[lens > 0].double() - want[lens > 0]
        assert (error.norm() / want.norm()).item() < 5e-3, lengths
    assert not workspace.arrivals.any()


def test_overlapping_launches():
    """With PDL a launch starts while its predecessor runs: the newest token, written by it, must still be seen."""
    from nanopd.kernels.paged_decode import DecodeWorkspace, paged_decode
    from nanopd.kernels.rope_store import rope_store

    torch.manual_seed(2)
    lengths = [1500, 33, 16, 1]
    kv, tables = paged_kv(lengths, 8, 16, 128, torch.bfloat16)
    lens = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    slots = [int(tables[row, (n - 1) // 16]) * 16 + (n - 1) % 16 for row, n in enumerate(lengths)]
    slots = torch.tensor(slots, device=DEVICE)
    angles = torch.zeros(2000, 128, device=DEVICE)
    angles[:, :64] = 1.0  # no rotation
    workspace = DecodeWorkspace.allocate(4, 128, lens.device)
    for _ in range(50):
        qkv = torch.randn(4, 48 * 128, device=DEVICE).bfloat16()
        q = rope_store(qkv, lens - 1, angles, kv, slots, 32, pdl=True)
        out = paged_decode(q, kv, tables, lens, workspace=workspace, pdl=True)
        want, _ = reference(q, kv, tables, lengths, 128**-0.5)
        assert ((out.double() - want).norm() / want.norm()).item() < 5e-3


def test_refuses_what_it_cannot_do():
    from nanopd.kernels.paged_decode import paged_decode

    kv, tables = paged_kv([16], 2, 16, 64, torch.bfloat16)
    lens = torch.ones(1, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="query heads"):
        paged_decode(torch.randn(1, 34, 64, device=DEVICE).bfloat16(), kv, tables, lens)
    with pytest.raises(ValueError, match="kv must be"):
        paged_decode(torch.randn(1, 4, 64, device=DEVICE).half(), kv, tables, lens)
    with pytest.raises(ValueError, match="block_tables"):
        paged_decode(torch.randn(1, 4, 64, device=DEVICE).bfloat16(), kv, tables.long(), lens)
