"""What the parts of the transfer benchmark have in common: a model's KV, two devices, the sizes."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanopd.config import ModelConfig
from nanopd.kv_transfer.shared_memory import SharedMemoryEndpoint
from nanopd.kv_transfer.transport import KvSender
from nanopd.weights import load_config, resolve_model

Note = Callable[..., None]  # takes the fields of a row

DTYPE = "bfloat16"  # of PoolProcess
LONG_PROMPT = 8192  # from here on a third of the rounds will do


@dataclass(frozen=True, slots=True)
class Setting:
    model: str
    load_format: str
    devices: tuple[str, str]  # the sender's and the receiver's
    pushes: tuple[int, ...]  # tokens
    prompts: tuple[int, ...]  # tokens
    chunks: tuple[int, ...]  # tokens a step
    rounds: int
    cuda_graphs: bool = True
    block_size: int = 16

    @property
    def on_cpu(self) -> bool:
        return self.devices[0] == "cpu"

    @property
    def transports(self) -> tuple[str, ...]:
        """The best first."""
        if self.on_cpu:
            return (SharedMemoryEndpoint.transport,)
        from nanopd.kv_transfer.cuda_endpoint import TRANSPORTS  # CPU-only machines lack the bindings

        return TRANSPORTS

    @property
    def config(self) -> ModelConfig:
        return load_config(resolve_model(self.model))

    @property
    def pool_shape(self) -> tuple[int, ...]:
        """[L, num_blocks, 2, K, S, D], bfloat16: twice what the largest push or prompt needs."""
        config = self.config
        num_blocks = 2 * -(-max(*self.pushes, *self.prompts) // self.block_size)
        return (config.num_layers, num_blocks, 2, config.num_kv_heads, self.block_size, config.head_dim)

    def rounds_of(self, num_tokens: int) -> int:
        return self.rounds if num_tokens < LONG_PROMPT else max(3, self.rounds // 3)


def sender_over(endpoint: Any, pool: Any, transport: str) -> KvSender:
    """Another sender of a pool, over ``transport`` alone: a GPU's endpoint has several."""
    endpoint.transports = (transport,)
    return endpoint.sender(pool)


def random_prompt(rng: random.Random, vocab_size: int, num_tokens: int) -> tuple[int, ...]:
    return tuple(rng.randrange(vocab_size // 100, vocab_size - 1) for _ in range(num_tokens))
