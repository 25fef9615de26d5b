"""The baseline of cpu_decode.py: a plain torch loop over the same weights, as one would write it for one model and one batch.

Contiguous preallocated KV, fused projections, torch's own attention; every sequence of a batch has the same length, so nothing is padded or masked.
No paging, no scheduling, no per-request sampling: greedy only.
"""

import torch
import torch.nn.functional as F

from nanopd.config import ModelConfig


class PlainLoop:
    """Greedy generation for equally long prompts."""

    def __init__(
        self, config: ModelConfig, tensors: dict[str, torch.Tensor], cos_sin: torch.Tensor, max_len: int
    ) -> None:
        self.config, self.tensors, self.max_len = config, tensors, max_len
        dtype = tensors["embed.weight"].dtype
        self.cos, self.sin = (torch.cat((half, half), -1).to(dtype) for half in cos_sin.chunk(2, -1))
        self.layers = [
            {name.split(".", 2)[2]: tensor for name, tensor in tensors.items() if name.startswith(f"layers.{index}.")}
            for index in range(config.num_layers)
        ]

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        c = self.config
        ids = torch.tensor(prompts)
        cache = torch.zeros(
            c.num_layers, 2, len(prompts), c.num_kv_heads, self.max_len, c.head_dim, dtype=self.cos.dtype
        )
        outputs, position = [], 0
        for _ in range(num_tokens):
            ids_next = self._step(ids, cache, position)
            position += ids.shape[1]
            ids = ids_next
            outputs.append(ids[:, 0])
        return torch.stack(outputs, 1).tolist()

    def _step(self, ids: torch.Tensor, cache: torch.Tensor, position: int) -> torch.Tensor:
        c, eps = self.config, self.config.rms_norm_eps
        B, T = ids.shape
        end = position + T
        cos, sin = self.cos[position:end], self.sin[position:end]
        x = F.embedding(ids, self.tensors["embed.weight"])
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            h = F.rms_norm(x, (c.hidden_size,), layer["input_norm.weight"], eps)
            qkv = F.linear(h, layer["qkv.weight"], layer.get("qkv.bias")).view(B, T, -1, c.head_dim).transpose(1, 2)
            q, k, v = qkv.split((c.num_heads, c.num_kv_heads, c.num_kv_heads), 1)
            keys[:, :, position:end] = rotate(k, cos, sin)
            values[:, :, position:end] = v
            attention = F.scaled_dot_product_attention(
                rotate(q, cos, sin), keys[:, :, :end], values[:, :, :end], is_causal=T > 1, enable_gqa=True
            )
            x = x + F.linear(attention.transpose(1, 2).reshape(B, T, -1), layer["o.weight"])
            h = F.rms_norm(x, (c.hidden_size,), layer["mlp_norm.weight"], eps)
            gate, up = F.linear(h, layer["gate_up.weight"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer["down.weight"])
        last = F.rms_norm(x[:, -1:], (c.hidden_size,), self.tensors["final_norm.weight"], eps)
        return F.linear(last, self.tensors.get("lm_head.weight", self.tensors["embed.weight"])).argmax(-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
