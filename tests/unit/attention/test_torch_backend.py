"""The reference backend against attention written out in float64."""

import pytest
import torch

from nanopd.attention import AttentionBatch, HeadNorms, TorchAttention
from nanopd.config import ModelConfig
from nanopd.layers.rotary import cos_sin_table

H, K, D = 6, 2, 8
CONFIG = ModelConfig("llama", 10, 8, 8, 1, H, K, D, 512, 1e-5, 10000.0)


def make_batch(lens, contexts, tables, block_size, num_decodes, padding=0):
    """``padding``: tokens of padding rows (context 0, slot -1) after the decodes of a captured step."""
    positions = torch.cat([torch.arange(c - n, c) for n, c in zip(lens, contexts, strict=True)])
    slots = torch.cat(
        [
            t[torch.arange(c - n, c) // block_size].long() * block_size + torch.arange(c - n, c) % block_size
            for n, c, t in zip(lens, contexts, tables, strict=True)
        ]
    )
    width = max(len(t) for t in tables)
    rows = torch.zeros(len(lens) + padding, width, dtype=torch.int32)
    for row, table in enumerate(tables):
        rows[row, : len(table)] = table
    q_lens, context_lens = (*lens, *[1] * padding), (*contexts, *[0] * padding)
    return AttentionBatch(
        positions_T=torch.cat([positions, torch.zeros(padding, dtype=torch.int64)]),
        slot_mapping_T=torch.cat([slots, torch.full((padding,), -1)]),
        block_tables_BM=rows,
        context_lens_B=torch.tensor(context_lens, dtype=torch.int32),
        cu_q_lens_B1=torch.tensor([0, *torch.tensor(q_lens).cumsum(0)], dtype=torch.int32),
        num_decodes=num_decodes + padding,
        q_lens=q_lens,
        context_lens=context_lens,
        block_size=block_size,
    )


def rotate(x, positions, table):
    cos, sin = (t[:, None].double() for t in table[positions].chunk(2, dim=-1))
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def normed(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def dense(qkv, norms, table):
    """One sequence's whole prompt at once: [C, (H + 2K) D] -> [C, H, D]."""
    heads = qkv.double().view(-1, H + 2 * K, D)
    q, k, v = heads.split((H, K, K), dim=1)
    if norms:
        q, k = normed(q, norms.q_weight_D, norms.eps), normed(k, norms.k_weight_D, norms.eps)
    positions = torch.arange(len(heads))
    q, k = rotate(q, positions, table), rotate(k, positions, table)
    k, v = k.repeat_interleave(H // K, 1), v.repeat_interleave(H // K, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * D**-0.5
    scores.masked_fill_(positions[None, :] > positions[:, None], float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("has_norms", [False, True])
def test_chunks_and_decodes_equal_dense_attention(block_size, has_norms):
    torch.manual_seed(block_size)
    table = cos_sin_table(CONFIG, 512, torch.device("cpu"))
    norms = HeadNorms(torch.rand(D) + 0.5, torch.rand(D) + 0.5, 1e-5) if has_norms else None
    totals = [33, 170, 5, 20, 41]
    # Each step feeds so many tokens of each sequence: prompts whole and in chunks, then decodes of unlike lengths beside a chunk.
    steps = [[32, 169, 4, 0, 7], [1, 1, 1, 0, 33], [0, 0, 0, 20, 0], [0, 0, 0, 0, 1]]
    blocks_of = [-(-total // block_size) for total in totals]
    ids = torch.randperm(sum(blocks_of) + 3).to(torch.int32)
    tables = list(ids[: sum(blocks_of)].split(blocks_of))
    kv = torch.zeros(len(ids), 2, K, block_size, D)
    qkvs = [torch.randn(total, (H + 2 * K) * D) for total in totals]
    outs, done = [[] for _ in totals], [0] * len(totals)
    backend = TorchAttention(H, K, D)
    for step in steps:
        rows = [i for i, n in enumerate(step) if n]
        lens = [step[i] for i in rows]
        num_decodes = sum(n == 1 and done[i] > 0 for i, n in zip(rows, lens, strict=True))
        qkv = torch.cat([qkvs[i][done[i] : done[i] + step[i]] for i in rows])
        batch = make_batch(lens, [done[i] + step[i] for i in rows], [tables[i] for i in rows], block_size, num_decodes)
        q = backend.store(qkv, table, norms, kv, batch)
        out = backend.attend(q, kv, batch)
        for i, part in zip(rows, out.split(lens), strict=True):
            outs[i].append(part)
            done[i] += step[i]
    for qkv, out in zip(qkvs, outs, strict=True):
        torch.testing.assert_close(torch.cat(out).double(), dense(qkv, norms, table), atol=2e-6, rtol=1e-5)
    assert not kv[ids[sum(blocks_of) :].long()].any()  # blocks of nobody stay untouched


def test_padding_rows_store_nothing_and_are_finite():
    torch.manual_seed(0)
    table = cos_sin_table(CONFIG, 64, torch.device("cpu"))
    kv = torch.zeros(4, 2, K, 4, D)
    tables = [torch.tensor([2], dtype=torch.int32), torch.tensor([1], dtype=torch.int32)]
    batch = make_batch([1, 1], [1, 2], tables, 4, 2, padding=2)
    backend = TorchAttention(H, K, D)
    out = backend.attend(backend.store(torch.randn(4, (H + 2 * K) * D), table, None, kv, batch), kv, batch)
    assert out.isfinite().all()
    assert kv[2, :, :, 0].any() and kv[1, :, :, 1].any()
    kv[2, :, :, 0] = kv[1, :, :, 1] = 0
    assert not kv.any()
