"""``nanopd trace``: run a workload and write a trace of it."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from nanopd.cli.engine_options import add_engine_options, engine_options
from nanopd.cli.trace_option import traced
from nanopd.errors import ConfigError
from nanopd.request import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("trace.json"), metavar="FILE", help="(%(default)s)")
    group = parser.add_argument_group("workload: the prompts of a file, or random ones")
    group.add_argument("--prompt-file", type=Path, metavar="FILE", help="a prompt a line")
    group.add_argument("--requests", type=int, default=8, help="how many random prompts (%(default)s)")
    group.add_argument("--input-len", type=int, default=256, help="tokens of each (%(default)s)")
    group.add_argument("--output-len", type=int, default=32, help="tokens generated for each prompt (%(default)s)")
    group.add_argument(
        "--rate", type=float, default=0.0, help="requests a second, Poisson; 0: all at once (%(default)s)"
    )
    group.add_argument("--seed", type=int, default=0, help="of prompts, arrivals and draws (%(default)s)")
    add_engine_options(parser, workers="1C")


def run(args: argparse.Namespace) -> int:
    for name in ("requests", "input_len", "output_len"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    prompts = _read_prompts(args.prompt_file) if args.prompt_file is not None else None
    with traced(args.out) as tracing:
        asyncio.run(_run(args, prompts, engine_options(args) | tracing))
    return 0


async def _run(args: argparse.Namespace, prompts: list[str] | None, options: dict[str, Any]) -> None:
    from nanopd.llm import AsyncLLM
    from nanopd.workload import RequestSpec, arrival_times, token_ids

    sampling = SamplingParams(max_tokens=args.output_len, temperature=0.0, seed=args.seed, ignore_eos=True)
    async with AsyncLLM(**options) as llm:
        texts: list[Any] = list(prompts or [])
        if prompts is None:
            vocab = llm.controller.model_config.vocab_size
            specs = (RequestSpec(float(i), args.input_len, 1, 1) for i in range(args.requests))
            texts = [token_ids(spec, vocab, args.seed) for spec in specs]
        arrivals = arrival_times("poisson", args.rate, args.seed) if args.rate > 0 else iter([0.0] * len(texts))
        started = asyncio.get_running_loop().time()

        async def one(prompt: Any, arrival: float) -> None:
            await asyncio.sleep(started + arrival - asyncio.get_running_loop().time())
            await llm.generate([prompt], sampling)

        await asyncio.gather(*(one(prompt, arrival) for prompt, arrival in zip(texts, arrivals, strict=False)))


def _read_prompts(path: Path) -> list[str]:
    try:
        prompts = [line for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if not prompts:
        raise ConfigError(f"{path} has no prompts: one a line is expected")
    return prompts
