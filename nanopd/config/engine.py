"""One worker's engine: KV cache, scheduler, device."""

from dataclasses import dataclass, field

from nanopd.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")
PROMPT_LOOKUP = "prompt-lookup"
TRANSPORTS = ("auto", "peer_to_peer", "pinned_relay", "shared_memory")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The paged KV cache of one worker."""

    block_size: int = 16  # tokens per block
    num_blocks: int | None = None  # None: sized from free memory when the worker starts
    memory_fraction: float | None = (
        None  # of the device's memory for weights + KV; None: 0.9 on a GPU, 0.25 on a CPU, split among its workers
    )
    enable_prefix_cache: bool = True

    def __post_init__(self) -> None:
        if self.block_size < 1 or self.block_size & (self.block_size - 1):
            raise ConfigError(f"block_size must be a power of two, got {self.block_size}")
        if self.num_blocks is not None and self.num_blocks < 1:
            raise ConfigError(f"num_blocks must be at least 1, got {self.num_blocks}")
        if self.memory_fraction is not None and not 0.0 < self.memory_fraction <= 1.0:
            raise ConfigError(f"memory_fraction must be in (0, 1], got {self.memory_fraction}")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Bounds of one step."""

    max_num_seqs: int = 64  # sequences running at once
    max_num_batched_tokens: int = 2048  # tokens fed in one step
    prefill_chunk_size: int | None = 512  # prompt tokens of one sequence in one step; None: as many as the step holds
    adapts_drafts: bool = True  # a guess is as long as it pays; else as long as the drafter makes it
    watermark: float = 0.01  # share of blocks kept free when a new sequence is admitted, for running ones to grow into
    step_multiple: int | None = None  # prompts fill a step to a multiple of so many tokens only; None: to its end

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.prefill_chunk_size is not None and self.prefill_chunk_size < 1:
            raise ConfigError(f"prefill_chunk_size must be at least 1 or None, got {self.prefill_chunk_size}")
        if self.step_multiple is not None and self.step_multiple < 1:
            raise ConfigError(f"step_multiple must be at least 1 or None, got {self.step_multiple}")
        if not 0.0 <= self.watermark < 1.0:
            raise ConfigError(f"watermark must be in [0, 1), got {self.watermark}")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything a worker needs to build its engine."""

    model: str = "smollm2-135m-instruct"  # embedded name, local folder, GGUF file or hub name
    dtype: str = "auto"  # auto: bfloat16 on a GPU and on CPUs with bf16 instructions, else float32
    device: str = "auto"  # auto: cuda when there is one, else cpu
    load_format: str = "auto"  # auto | safetensors | gguf | dummy (random weights)
    max_model_len: int | None = None  # None: the model's context length, bounded by the KV pool
    attention_backend: str = "auto"  # auto | torch | cuda
    cuda_graphs: bool = True
    num_threads: int | None = None  # CPU threads of this worker; None: cores split among the workers
    transport: str = (
        "auto"  # how KV leaves this worker: auto (the fastest that works), peer_to_peer, pinned_relay, shared_memory
    )
    speculative: str | None = None  # None: off; "prompt-lookup"; else a model that drafts (name, folder, GGUF file)
    num_draft_tokens: int = 4  # guessed ahead of each step at most, when speculative
    trace_dir: str | None = None  # each process leaves a log there of what it did and when (nanopd.tracing)
    verify_transfers: bool = False  # check every KV hand-off end to end by checksums (slow; for hunting a fault)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.load_format not in ("auto", "safetensors", "gguf", "dummy"):
            raise ConfigError(f"load_format must be one of auto, safetensors, gguf, dummy, got {self.load_format!r}")
        if self.transport not in TRANSPORTS:
            raise ConfigError(f"transport must be one of {', '.join(TRANSPORTS)}, got {self.transport!r}")
        if self.num_draft_tokens < 1:
            raise ConfigError(f"num_draft_tokens must be at least 1, got {self.num_draft_tokens}")
        if self.attention_backend not in ("auto", "torch", "cuda"):
            raise ConfigError(f"attention_backend must be one of auto, torch, cuda, got {self.attention_backend!r}")
