"""Command-line options for the engine and the cluster: one per config field, named after it."""

import argparse
from typing import Any

from nanopd.config import ClusterConfig, EngineConfig
from nanopd.config.options import build_configs

# (field, type, help); what is not given keeps the config's own default.
_MODEL = (
    ("model", str, "embedded name, folder, .gguf file or hub name"),
    ("dtype", str, "auto, float32, bfloat16, float16"),
    ("load_format", str, "auto, safetensors, gguf, dummy (random weights)"),
    ("device", str, "auto, cpu, cuda"),
    ("attention_backend", str, "auto, torch, cuda"),
    ("num_threads", int, "CPU threads of each worker"),
    ("max_model_len", int, "longest prompt plus output, in tokens"),
    ("speculative", str, "prompt-lookup, or a small model that drafts for the large one"),
    ("num_draft_tokens", int, "tokens guessed ahead of each step, when speculative"),
)
_CACHE = (
    ("block_size", int, "tokens per KV block, a power of two"),
    ("num_blocks", int, "KV blocks of each worker; sized from free memory if left out"),
    ("memory_fraction", float, "of the device's memory, for weights and KV"),
)
_SCHEDULER = (
    ("max_num_seqs", int, "sequences running at once in a worker"),
    ("max_num_batched_tokens", int, "tokens of one step"),
    ("prefill_chunk_size", int, "prompt tokens of one sequence in one step"),
    ("step_multiple", int, "prompts fill a step only to a multiple of so many tokens: 256 for throughput on a GPU"),
)
_CLUSTER = (
    ("workers", str, "how many of each role: 1C+1P+1D is one collocated, one prefill, one decode"),
    ("strategy", str, "collocated, disaggregated, adaptive"),
    ("policy", str, "how an adaptive strategy decides: auto, adaptive, original, least-work, dynamo, ..."),
    ("profile", str, "what `nanopd profile` wrote, for the router (default: the closest that comes with nanopd)"),
    ("on_hopeless", str, "serve or reject: requests that state objectives no plan is likely to keep (policy adaptive)"),
    ("transport", str, "how KV moves between workers: auto, peer_to_peer, pinned_relay, shared_memory"),
    ("max_queued_requests", int, "requests accepted and not finished; more are refused"),
)
_SWITCHES = (
    ("prefix_cache", "enable_prefix_cache", "reuse of KV between prompts that begin alike"),
    ("cuda_graphs", "cuda_graphs", "CUDA graphs"),
)


def add_engine_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Adds the options; ``defaults`` are this command's own."""
    for title, options in (("model", _MODEL), ("KV cache", _CACHE), ("scheduler", _SCHEDULER), ("cluster", _CLUSTER)):
        group = parser.add_argument_group(title)
        for name, kind, text in options:
            note = f" (default: {defaults[name]})" if name in defaults else ""
            default = defaults.get(name, argparse.SUPPRESS)
            group.add_argument(
                f"--{name.replace('_', '-')}",
                dest=name,
                type=kind,
                default=default,
                help=text + note,
                metavar=name.upper(),
            )
    group = parser.add_argument_group("switches")
    for name, field, text in _SWITCHES:
        group.add_argument(
            f"--no-{name.replace('_', '-')}",
            dest=field,
            action="store_false",
            default=argparse.SUPPRESS,
            help=f"without {text}",
        )


def engine_and_cluster(args: argparse.Namespace) -> tuple[EngineConfig, ClusterConfig]:
    """The configs the options ask for. Raises ConfigError."""
    return build_configs(engine_options(args))


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by config field."""
    names = [name for group in (_MODEL, _CACHE, _SCHEDULER, _CLUSTER) for name, _kind, _text in group]
    return {
        name: getattr(args, name)
        for name in (*names, *(field for _name, field, _text in _SWITCHES))
        if hasattr(args, name)
    }
