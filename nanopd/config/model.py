"""The shape of a model. Differences between families are explicit flags, never inferred from something else."""

from dataclasses import dataclass
from typing import Any

from nanopd.errors import UnsupportedModelError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context (HF ``rope_scaling`` names)."""

    kind: str  # linear | llama3 | yarn
    factor: float
    original_max_position: int
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer of the Llama kind."""

    family: str  # llama | qwen2 | qwen3
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    has_qk_norm: bool = False
    has_attention_bias: bool = False  # on the q, k, v projections
    has_output_bias: bool = False  # on the attention output projection (llama with attention_bias)
    has_mlp_bias: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise UnsupportedModelError(
                f"num_heads must be a multiple of num_kv_heads, got {self.num_heads} and {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise UnsupportedModelError(f"head_dim must be even, got {self.head_dim}")

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of K and V that one token adds over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * DTYPE_BYTES[dtype]

    @property
    def num_parameters(self) -> int:
        """Weights, the embedding counted once when tied; norms and biases left out (below 0.1 %)."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * (attention + mlp) + embeddings

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "ModelConfig":
        """Reads a Hugging Face ``config.json``. Raises UnsupportedModelError naming what is not implemented."""
        family = config.get("model_type", "")
        if family not in ("llama", "qwen2", "qwen3"):
            raise UnsupportedModelError(f"model_type must be one of llama, qwen2, qwen3, got {family!r}")
        if config.get("hidden_act", "silu") != "silu":
            raise UnsupportedModelError(f"hidden_act must be silu, got {config['hidden_act']!r}")
        if config.get("use_sliding_window") or (family == "llama" and config.get("sliding_window")):
            raise UnsupportedModelError("sliding-window attention is not implemented")
        eos = config.get("eos_token_id")
        num_heads = config["num_attention_heads"]
        attention_bias = bool(config.get("attention_bias", False))
        return cls(
            family=family,
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
            max_position=config.get("max_position_embeddings", 2048),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=_rope_theta(config),
            rope_scaling=_rope_scaling(config),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            has_qk_norm=family == "qwen3",
            has_attention_bias=family == "qwen2" or attention_bias,
            has_output_bias=family != "qwen2" and attention_bias,
            has_mlp_bias=bool(config.get("mlp_bias", False)),
            bos_token_id=config.get("bos_token_id"),
            eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        )


def _rope_section(config: dict[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` (transformers 5) or ``rope_scaling`` (before)."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_theta(config: dict[str, Any]) -> float:
    return float(_rope_section(config).get("rope_theta") or config.get("rope_theta") or 10000.0)


def _rope_scaling(config: dict[str, Any]) -> RopeScaling | None:
    section = _rope_section(config)
    kind = section.get("rope_type") or section.get("type") or "default"
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedModelError(f"rope scaling must be one of linear, llama3, yarn, got {kind!r}")
    return RopeScaling(
        kind=kind,
        factor=float(section["factor"]),
        original_max_position=int(
            section.get("original_max_position_embeddings") or config.get("max_position_embeddings", 2048)
        ),
        low_freq_factor=float(section.get("low_freq_factor", 1.0)),
        high_freq_factor=float(section.get("high_freq_factor", 4.0)),
        beta_fast=float(section.get("beta_fast") or 32.0),
        beta_slow=float(section.get("beta_slow") or 1.0),
        attention_factor=section.get("attention_factor"),
    )
