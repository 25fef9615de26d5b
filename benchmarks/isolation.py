"""What prefills do to running decodes: a decode batch undisturbed, and beside long prompts that come back to back.

    python benchmarks/isolation.py --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

Two arms: prefill and decode on workers of their own (1P+1D: on two GPUs where there are two), and the same load on one collocated worker with
chunked prefill. In each, ``--batch`` sequences decode; the time between two tokens of one sequence, from the client's clock, is compared between a
run without and a run with prompts. Must show: the p99 of the separated arm rises by at most 5 %.
"""

import argparse
import asyncio
import json
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

from nanopd.config.options import build_configs
from nanopd.request import Request, SamplingParams, Strategy
from nanopd.runtime.controller import Controller

MODEL = str(Path(__file__).parent / "models" / "qwen3-8b")
ARMS = {"separated": ("1P+1D", Strategy.DISAGGREGATED), "collocated": ("1C", Strategy.COLLOCATED)}


class Load:
    """Decodes and, beside them, prompts."""

    def __init__(self, controller: Controller, strategy: Strategy, args: argparse.Namespace) -> None:
        self._controller = controller
        self._strategy = strategy
        self._args = args
        self._random = random.Random(0)
        self._count = 0
        self.gaps_ms: list[float] = []
        self.num_prompts = 0
        self._num_decoding = 0

    async def run(self, with_prompts: bool) -> list[float]:
        """Milliseconds between tokens while the whole batch was decoding."""
        self.gaps_ms, self.num_prompts, self._num_decoding = [], 0, 0
        decodes = [asyncio.create_task(self._decode()) for _ in range(self._args.batch)]
        while self._num_decoding < self._args.batch and not any(task.done() for task in decodes):
            await asyncio.sleep(0.01)
        prompts = asyncio.create_task(self._prompts()) if with_prompts else None
        await asyncio.gather(*decodes)
        if prompts is not None:
            prompts.cancel()
            await asyncio.wait([prompts])
        return self.gaps_ms

    async def _decode(self) -> None:
        last, num_tokens = 0.0, 0
        async for delta in self._submit(self._args.context, self._args.num_tokens):
            now = time.perf_counter()
            num_tokens += len(delta.token_ids)
            if num_tokens > 1 and self._num_decoding == self._args.batch:
                self.gaps_ms.append((now - last) * 1e3)
            elif num_tokens == 1:
                self._num_decoding += 1
            last = now

    async def _prompts(self) -> None:
        """Two at any time, so that the prefill worker never waits for the next."""

        async def one_after_another() -> None:
            while True:
                async for _ in self._submit(self._args.prompt, 1):
                    self.num_prompts += 1

        await asyncio.gather(one_after_another(), one_after_another())

    def _submit(self, num_prompt: int, num_output: int) -> Any:
        self._count += 1
        prompt = tuple(
            self._random.randrange(self._args.vocab_size // 100, self._args.vocab_size) for _ in range(num_prompt)
        )
        params = SamplingParams(max_tokens=num_output, temperature=0.0, ignore_eos=True)
        return self._controller.submit(Request(f"r{self._count}", prompt, params, strategy=self._strategy))


async def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    workers, strategy = ARMS[name]
    options = {
        "model": args.model,
        "load_format": args.load_format,
        "device": args.device,
        "enable_prefix_cache": False,
        "max_num_seqs": args.batch + 8,
        "max_model_len": max(args.prompt, args.context + args.num_tokens) + 16,
        "num_blocks": args.num_blocks,
    }
    engine, cluster = build_configs({"workers": workers, "strategy": strategy, **options})
    controller = Controller(engine, cluster)
    await controller.start()
    load = Load(controller, strategy, args)
    await load.run(with_prompts=True)  # warm-up
    alone = await load.run(with_prompts=False)
    beside = await load.run(with_prompts=True)
    num_prompts = load.num_prompts
    await controller.stop()
    row: dict[str, Any] = {"arm": name, "workers": workers, "prompts_beside": num_prompts}
    for what, gaps in (("alone", alone), ("beside", beside)):
        hundredths = quantiles(gaps, n=100, method="inclusive")
        row |= {f"{what}_p50_ms": round(hundredths[49], 3), f"{what}_p99_ms": round(hundredths[98], 3)}
    return row | {"p99_ratio": round(row["beside_p99_ms"] / row["alone_p99_ms"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vocab-size", type=int, default=150_000, help="prompts are random token ids below it")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--num-tokens", type=int, default=512, help="that each sequence decodes")
    parser.add_argument("--prompt", type=int, default=8192)
    parser.add_argument("--num-blocks", type=int, default=8192, help="KV blocks of each worker")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name in ARMS:
        rows.append(asyncio.run(measure(name, args)))
        print(json.dumps(rows[-1]), flush=True)
    if args.out is not None:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        command = shlex.join(["python", *sys.argv])
        record = {"date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip(), "command": command, "rows": rows}
        args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        names = list(rows[0])
        table = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
        table += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]
        head = f"# Decodes beside prefills, {record['date']}\n\n`{command}` at {record['commit']}\n\n"
        args.out.with_suffix(".md").write_text(head + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
