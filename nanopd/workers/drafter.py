"""The drafter a worker is configured with: prompt lookup, or a model of its own beside the large one."""

from dataclasses import replace

from nanopd.block_manager import BlockManager
from nanopd.clock import Clock
from nanopd.config import EngineConfig
from nanopd.config.engine import PROMPT_LOOKUP
from nanopd.decoding import Drafter, PromptLookup
from nanopd.engine import DraftModel, Engine
from nanopd.errors import ConfigError
from nanopd.model_runner import ModelRunner
from nanopd.scheduler import Scheduler
from nanopd.weights import load_config, resolve_model

_MEMORY_SHARE = 0.2  # of what the worker may use: a draft model is small, and its KV is only a cache
_MEMORY_FRACTION = 0.15  # of the device's memory, where the worker's own share is not given


def build_drafter(config: EngineConfig, clock: Clock, num_workers_on_device: int) -> Drafter | None:
    """None without speculation. To be called before the large model is loaded, which then takes the memory that is left.

    Raises UnknownModelError, and ConfigError for a draft model whose token ids are not the large one's.
    """
    if config.speculative is None:
        return None
    if config.speculative == PROMPT_LOOKUP:
        return PromptLookup(config.num_draft_tokens)
    ours, theirs = (load_config(resolve_model(name)).vocab_size for name in (config.model, config.speculative))
    if ours != theirs:
        raise ConfigError(f"the draft model must have the model's vocabulary of {ours} tokens, got {theirs}")
    cache = config.cache
    share = cache.memory_fraction * _MEMORY_SHARE if cache.memory_fraction else _MEMORY_FRACTION
    draft_config = replace(
        config,
        model=config.speculative,
        speculative=None,
        max_model_len=None,
        cache=replace(cache, enable_prefix_cache=True, memory_fraction=share),
        scheduler=replace(config.scheduler, prefill_chunk_size=None, watermark=0.0),
    )
    runner = ModelRunner.load(draft_config, num_workers_on_device=num_workers_on_device)
    blocks = BlockManager(runner.kv_cache.pool.shape[1], cache.block_size)
    depth = 1 if runner.device.type == "cpu" else 2
    engine = Engine(Scheduler(draft_config.scheduler, blocks, runner.max_model_len), runner, clock, depth)
    return DraftModel(engine, config.num_draft_tokens)
