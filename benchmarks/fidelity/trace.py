"""The trace that both sides play."""

from collections.abc import Sequence
from dataclasses import replace

from nanopd.workload import RequestSpec, named_workload


def make_trace(
    shape: str, rate: float, count: int, seed: int, max_prompt: int, min_output: int, max_output: int
) -> list[RequestSpec]:
    """A named workload with Poisson arrivals, lengths bounded so that a slow machine gets through it."""
    drawn = named_workload(shape, "poisson", rate, count=count, seed=seed)
    return [_bounded(spec, max_prompt, min_output, max_output) for spec in drawn]


def _bounded(spec: RequestSpec, max_prompt: int, min_output: int, max_output: int) -> RequestSpec:
    num_output = max(min_output, min(spec.num_output_tokens, max_output))
    return replace(
        spec,
        num_prompt_tokens=min(spec.num_prompt_tokens, max_prompt),
        num_output_tokens=num_output,
        max_tokens=num_output,
        prefix_hashes=spec.prefix_hashes[: -(-min(spec.num_prompt_tokens, max_prompt) // 512)],
    )


def describe(specs: Sequence[RequestSpec]) -> str:
    """In a line."""
    prompts, outputs = (sorted(lengths) for lengths in zip(*_lengths(specs), strict=True))
    span = specs[-1].arrival_s - specs[0].arrival_s
    middle = len(specs) // 2
    return (
        f"{len(specs)} requests over {span:.0f} s; prompts {prompts[0]} to {prompts[-1]} tokens (median {prompts[middle]}), "
        f"outputs {outputs[0]} to {outputs[-1]} (median {outputs[middle]})"
    )


def _lengths(specs: Sequence[RequestSpec]) -> list[tuple[int, int]]:
    return [(spec.num_prompt_tokens, spec.num_output_tokens) for spec in specs]
