"""rope_store against float64."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = "cuda"


def reference(qkv, positions, cos_sin, num_q_heads, num_kv_heads, head_dim, weights, eps):
    """q [T, Hq, D], k and v [T, Hk, D] in float64."""
    heads = qkv.double().unflatten(-1, (-1, head_dim))
    q, k, v = heads.split([num_q_heads, num_kv_heads, num_kv_heads], dim=1)
    if weights is not None:
        q, k = (
            x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.double()
            for x, weight in zip((q, k), weights, strict=True)
        )
    half = cos_sin.shape[1] // 2
    cosine, sine = cos_sin.double()[positions.long()].unsqueeze(1).split(half, dim=-1)

    def rotate(x):
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1)

    return rotate(q), rotate(k), v


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_q_heads", "num_kv_heads"), [(32, 8), (14, 2), (3, 3), (9, 3)])
def test_against_float64(head_dim, has_norm, dtype, num_q_heads, num_kv_heads):
    from nanopd.kernels.rope_store import rope_store

    torch.manual_seed(head_dim + num_q_heads)
    for num_tokens, block_size, rotary_dim, position_type in (
        (1, 16, head_dim, torch.int64),
        (37, 8, head_dim // 2, torch.int32),
        (300, 64, head_dim, torch.int32),
    ):
        width = (num_q_heads + 2 * num_kv_heads) * head_dim
        qkv = torch.randn(num_tokens, width + 64, device=DEVICE).to(dtype)[:, :width]  # rows apart
        weights = [(torch.rand(head_dim, device=DEVICE) + 0.5).to(dtype) for _ in range(2)] if has_norm else None
        positions = torch.randint(0, 5000, (num_tokens,), device=DEVICE, dtype=position_type)
        angles = torch.rand(5000, rotary_dim // 2, device=DEVICE, dtype=torch.float64) * 6.28
        cos_sin = torch.cat([angles.cos(), angles.sin()], dim=-1).float()
        num_blocks = num_tokens // block_size + 3
        kv = torch.full((num_blocks, 2, num_kv_heads, block_size, head_dim), -7.0, device=DEVICE, dtype=dtype)
        slots = torch.randperm(num_blocks * block_size, device=DEVICE)[:num_tokens]
        if num_tokens > 1:
            slots[num_tokens // 2] = -1
        out = torch.full((num_tokens, num_q_heads, head_dim), float("nan"), device=DEVICE, dtype=dtype)
        rope_store(qkv, positions, cos_sin, kv, slots, num_q_heads, *(weights or (None, None)), eps=1e-5, out=out)
        q, k, v = reference(qkv, positions, cos_sin, num_q_heads, num_kv_heads, head_dim, weights, 1e-5)
        assert (out.double() - q).norm() / q.norm() < 3e-3

        rows = kv.permute(0, 3, 1, 2, 4).flatten(0, 1)  # [slot, 2, Hk, D]
        stored = slots >= 0
        assert (rows[slots[stored], 0].double() - k[stored]).norm() / k.norm() < 3e-3
        assert torch.equal(rows[slots[stored], 1].double(), v[stored])
        untouched = torch.ones(len(rows), dtype=torch.bool, device=DEVICE)
        untouched[slots[stored]] = False
        assert (rows[untouched] == -7.0).all()


def test_query_may_be_rotated_in_place():
    from nanopd.kernels.rope_store import rope_store

    torch.manual_seed(0)
    qkv = torch.randn(50, 12 * 64, device=DEVICE).bfloat16()
    positions, slots = torch.arange(50, device=DEVICE), torch.arange(50, device=DEVICE)
    cos_sin = torch.randn(50, 64, device=DEVICE)
    kv = torch.zeros(4, 2, 2, 16, 64, device=DEVICE, dtype=torch.bfloat16)
    want = rope_store(qkv, positions, cos_sin, kv, slots, 8)
    rope_store(qkv, positions, cos_sin, kv, slots, 8, out=qkv[:, :512].unflatten(1, (8, 64)))
    assert torch.equal(qkv[:, :512], want.flatten(1))
