"""Which tensors a decoder is made of: our fused names, their shapes, and the checkpoint tensors each is put together from.

::

    embed.weight                     [vocab, hidden]
    layers.N.input_norm.weight       [hidden]
    layers.N.qkv.weight / .bias      rows of q, k, v one after the other
    layers.N.q_norm.weight           [head_dim]   (q/k norm models)
    layers.N.k_norm.weight           [head_dim]
    layers.N.o.weight / .bias        [hidden, heads * head_dim]
    layers.N.mlp_norm.weight         [hidden]
    layers.N.gate_up.weight / .bias  rows of gate, up one after the other
    layers.N.down.weight / .bias     [hidden, intermediate]
    final_norm.weight                [hidden]
    lm_head.weight                   [vocab, hidden]   (absent when tied to embed.weight)
"""

from collections.abc import Iterator
from dataclasses import dataclass

from nanopd.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of our tensors: ``parts`` (Hugging Face names, row counts) stacked along the first dimension."""

    name: str
    parts: tuple[tuple[str, int], ...]
    num_columns: int | None  # None: a vector

    @property
    def shape(self) -> tuple[int, ...]:
        rows = sum(count for _, count in self.parts)
        return (rows,) if self.num_columns is None else (rows, self.num_columns)


def parameters(config: ModelConfig) -> list[Parameter]:
    """Every tensor the decoder of ``config`` needs."""
    hidden = config.hidden_size
    found = [Parameter("embed.weight", (("model.embed_tokens.weight", config.vocab_size),), hidden)]
    for index in range(config.num_layers):
        found += _layer(config, index)
    found.append(Parameter("final_norm.weight", (("model.norm.weight", hidden),), None))
    if not config.tie_word_embeddings:
        found.append(Parameter("lm_head.weight", (("lm_head.weight", config.vocab_size),), hidden))
    return found


def _layer(config: ModelConfig, index: int) -> Iterator[Parameter]:
    ours, theirs = f"layers.{index}", f"model.layers.{index}"
    hidden, inner = config.hidden_size, config.intermediate_size
    q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def linear(name: str, parts: tuple[tuple[str, int], ...], num_columns: int, has_bias: bool) -> Iterator[Parameter]:
        for kind, columns in (("weight", num_columns), ("bias", None)) if has_bias else (("weight", num_columns),):
            yield Parameter(
                f"{ours}.{name}.{kind}", tuple((f"{theirs}.{part}.{kind}", rows) for part, rows in parts), columns
            )

    def norm(name: str, part: str, size: int) -> Parameter:
        return Parameter(f"{ours}.{name}.weight", ((f"{theirs}.{part}.weight", size),), None)

    yield norm("input_norm", "input_layernorm", hidden)
    qkv = (("self_attn.q_proj", q_rows), ("self_attn.k_proj", kv_rows), ("self_attn.v_proj", kv_rows))
    yield from linear("qkv", qkv, hidden, config.has_attention_bias)
    if config.has_qk_norm:
        yield norm("q_norm", "self_attn.q_norm", config.head_dim)
        yield norm("k_norm", "self_attn.k_norm", config.head_dim)
    yield from linear("o", (("self_attn.o_proj", hidden),), q_rows, config.has_output_bias)
    yield norm("mlp_norm", "post_attention_layernorm", hidden)
    yield from linear("gate_up", (("mlp.gate_proj", inner), ("mlp.up_proj", inner)), hidden, config.has_mlp_bias)
    yield from linear("down", (("mlp.down_proj", hidden),), inner, config.has_mlp_bias)
