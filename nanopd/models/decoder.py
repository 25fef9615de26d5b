"""The decoder of the Llama, Qwen2 and Qwen3 families: pre-norm, rotary attention with grouped queries, SwiGLU; differences are flags of ModelConfig.

Weights are plain tensors and a layer is a function: the hot path has no module machinery, no host synchronisation and only shapes fixed by its
inputs, so that a CUDA graph can capture it.

Shape legend: T tokens in the step, E hidden size, X all query heads, V vocabulary, R rows to be sampled.
"""

from dataclasses import dataclass

import torch

from nanopd.attention.backend import AttentionBackend, AttentionBatch, HeadNorms
from nanopd.config import ModelConfig
from nanopd.kv_cache import KvCache
from nanopd.layers.embedding import embed
from nanopd.layers.linear import linear, linear_float32, linear_silu_mul
from nanopd.layers.norm import add_rms_norm_, rms_norm


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Biases and head norms are None where the model has none."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    head_norms: HeadNorms | None
    o: torch.Tensor
    o_bias: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


class Decoder:
    """Token ids in, normalised hidden states and logits out."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: dict[str, torch.Tensor],
        cos_sin_PD: torch.Tensor,
        attention: AttentionBackend,
    ) -> None:
        """``tensors``: by the names of ``weights.parameters``."""
        self.config = config
        self.attention = attention
        self.cos_sin_PD = cos_sin_PD
        self.embedding = tensors["embed.weight"]
        self.lm_head = tensors.get("lm_head.weight", self.embedding)
        self.final_norm = tensors["final_norm.weight"]
        self.layers = tuple(_layer_weights(config, tensors, index) for index in range(config.num_layers))

    def forward(
        self, token_ids_T: torch.Tensor, batch: AttentionBatch, kv: KvCache, rows_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Stores the tokens' KV and returns their hidden states after the final norm, [T, E].

        ``rows_R``: the tokens whose hidden states are wanted, [R, E]; of the last layer the others need no more than their KV.
        """
        q_THD, residual_TE = self.last_queries(token_ids_T, batch, kv)
        if rows_R is not None and not len(rows_R):
            return q_THD.new_empty(0, residual_TE.shape[1])
        attended_THD = self.attention.attend(q_THD, kv.layer(len(self.layers) - 1), batch)
        return self.finish(attended_THD, residual_TE, rows_R)

    def last_queries(
        self, token_ids_T: torch.Tensor, batch: AttentionBatch, kv: KvCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All up to the last layer's attention: its queries, [T, H, D], and the residual stream, [T, E]."""
        # The stream is float32 whatever the model's dtype: sixty roundings less.
        residual_TE = embed(token_ids_T, self.embedding)
        x_TE = rms_norm(residual_TE, self.layers[0].input_norm, self.config.rms_norm_eps)
        q_THD = self._queries(0, x_TE, batch, kv)
        for index in range(1, len(self.layers)):
            attended_THD = self.attention.attend(q_THD, kv.layer(index - 1), batch)
            x_TE = self._finish_layer(index - 1, attended_THD, residual_TE, self.layers[index].input_norm)
            q_THD = self._queries(index, x_TE, batch, kv)
        return q_THD, residual_TE

    def finish(
        self, attended_THD: torch.Tensor, residual_TE: torch.Tensor, rows_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What follows the last layer's attention, for all tokens or for ``rows_R``: hidden states after the final norm."""
        if rows_R is not None:
            attended_THD, residual_TE = attended_THD.index_select(0, rows_R), residual_TE.index_select(0, rows_R)
        return self._finish_layer(len(self.layers) - 1, attended_THD, residual_TE, self.final_norm)

    def _queries(self, index: int, x_TE: torch.Tensor, batch: AttentionBatch, kv: KvCache) -> torch.Tensor:
        layer = self.layers[index]
        qkv_TX = linear(x_TE, layer.qkv, layer.qkv_bias)
        return self.attention.store(qkv_TX, self.cos_sin_PD, layer.head_norms, kv.layer(index), batch)

    def _finish_layer(
        self, index: int, attended_THD: torch.Tensor, residual_TE: torch.Tensor, next_norm_E: torch.Tensor
    ) -> torch.Tensor:
        """Adds what is left of the layer to the residual stream in place; returns its norm for what comes next."""
        layer, eps = self.layers[index], self.config.rms_norm_eps
        x_TE = linear(attended_THD.reshape(residual_TE.shape[0], -1), layer.o, layer.o_bias)
        x_TE = add_rms_norm_(x_TE, residual_TE, layer.mlp_norm, eps)
        x_TE = linear(linear_silu_mul(x_TE, layer.gate_up, layer.gate_up_bias), layer.down, layer.down_bias)
        return add_rms_norm_(x_TE, residual_TE, next_norm_E, eps)

    def logits(self, hidden_RE: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [R, V]: at 16 and above bfloat16 tells apart only what is 0.125 away, too coarse to choose tokens by."""
        return linear_float32(hidden_RE, self.lm_head, out)


def _layer_weights(config: ModelConfig, tensors: dict[str, torch.Tensor], index: int) -> LayerWeights:
    def weight(name: str) -> torch.Tensor:
        return tensors[f"layers.{index}.{name}"]

    norms = None
    if config.has_qk_norm:
        norms = HeadNorms(weight("q_norm.weight"), weight("k_norm.weight"), config.rms_norm_eps)
    return LayerWeights(
        input_norm=weight("input_norm.weight"),
        qkv=weight("qkv.weight"),
        qkv_bias=weight("qkv.bias") if config.has_attention_bias else None,
        head_norms=norms,
        o=weight("o.weight"),
        o_bias=weight("o.bias") if config.has_output_bias else None,
        mlp_norm=weight("mlp_norm.weight"),
        gate_up=weight("gate_up.weight"),
        gate_up_bias=weight("gate_up.bias") if config.has_mlp_bias else None,
        down=weight("down.weight"),
        down_bias=weight("down.bias") if config.has_mlp_bias else None,
    )
