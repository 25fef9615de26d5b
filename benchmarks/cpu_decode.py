"""The whole engine in one process on a CPU against a plain torch loop over the same weights.

    python benchmarks/cpu_decode.py --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

The two arms alternate; each figure is the median over repetitions, each ratio the median of the ratios within a repetition. The engine's arm goes
through scheduler, block manager, model runner and paged KV; prompts differ in every repetition and the prefix cache is off. Greedy.
``--clock cpu --threads 1`` measures CPU time instead, for a machine that others use as well.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent))
from plain_torch import PlainLoop

from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.layers.rotary import cos_sin_table
from nanopd.model_runner import ModelRunner
from nanopd.model_runner.device import DTYPES
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.weights import resolve_model
from nanopd.weights.loader import load_weights
from nanopd.workers.wall_clock import WallClock

MAX_LEN = 1024
PROMPT, OUTPUT = 128, 65  # decode is timed over the 64 tokens after the first
TARGETS = {"decode-1": 0.95, "decode-8": 0.95, "concurrent-32": 2.0, "prefill-512": 0.95}


class Arms:
    """The engine and the plain loop over one set of weights."""

    def __init__(self, model: str, dtype: str, threads: int) -> None:
        config = EngineConfig(
            model=model,
            dtype=dtype,
            device="cpu",
            num_threads=threads,
            max_model_len=MAX_LEN,
            cache=CacheConfig(num_blocks=40 * MAX_LEN // 16, enable_prefix_cache=False),
            scheduler=SchedulerConfig(max_num_seqs=64),
        )
        self.runner = ModelRunner.load(config)
        blocks = BlockManager(self.runner.kv_cache.num_blocks, 16, False)
        self.engine = Engine(Scheduler(config.scheduler, blocks, MAX_LEN), self.runner, WallClock())
        self.config = self.runner.model_config
        weights = load_weights(
            resolve_model(model), self.config, DTYPES[dtype], torch.device("cpu")
        )  # maps the same file
        self.plain = PlainLoop(self.config, weights, cos_sin_table(self.config, MAX_LEN, torch.device("cpu")), MAX_LEN)
        self._count = 0

    def ours(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        outputs: dict[str, list[int]] = {}
        for prompt in prompts:
            params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True, seed=0)
            key = f"r{self._count}"
            self._count += 1
            outputs[key] = []
            self.engine.run_local(key, Request(key, tuple(prompt), params))
        while self.engine.has_work:
            for output in self.engine.step().outputs:
                outputs[output.seq_id] += output.token_ids
        return list(outputs.values())

    def serial(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        return [self.plain.generate([prompt], num_tokens)[0] for prompt in prompts]


Generate = Callable[[list[list[int]], int], list[list[int]]]


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(arms: Arms, repetitions: int, names: list[str], clock: Callable[[], float]) -> dict[str, dict]:
    rand = random.Random(0)

    def timed(generate: Generate, prompts: list[list[int]], num_tokens: int) -> float:
        started = clock()
        outputs = generate(prompts, num_tokens)
        elapsed = clock() - started
        assert [len(tokens) for tokens in outputs] == [num_tokens] * len(prompts)
        return elapsed

    def decode_rate(generate: Generate, prompts: list[list[int]]) -> float:
        both, first = timed(generate, prompts, OUTPUT), timed(generate, prompts, 1)
        return len(prompts) * (OUTPUT - 1) / (both - first)

    def prompts(count: int, length: int) -> list[list[int]]:
        return [[rand.randrange(100, arms.config.vocab_size) for _ in range(length)] for _ in range(count)]

    def both(measured: Callable[[Generate], float], baseline: Generate = arms.plain.generate) -> tuple[float, float]:
        return measured(arms.ours), measured(baseline)

    def case_decode(count: int) -> tuple[float, float]:
        batch = prompts(count, PROMPT)
        return both(lambda generate: decode_rate(generate, batch))

    def case_concurrent() -> tuple[float, float]:
        batch = prompts(32, 64)
        return both(lambda generate: 32 * 32 / timed(generate, batch, 32), arms.serial)

    def case_prefill() -> tuple[float, float]:
        batch = prompts(1, 512)
        return both(lambda generate: 512 / timed(generate, batch, 1))

    cases = {
        "decode-1": lambda: case_decode(1),
        "decode-8": lambda: case_decode(8),
        "concurrent-32": case_concurrent,
        "prefill-512": case_prefill,
    }
    results = {}
    arms.ours(prompts(2, 16), 2), arms.plain.generate(prompts(2, 16), 2)  # warm
    for name in names:
        case = cases[name]
        runs = [case() for _ in range(repetitions)]
        ratio = median(ours / plain for ours, plain in runs)
        results[name] = {
            "ours_tok_s": round(median(ours for ours, _ in runs), 1),
            "plain_tok_s": round(median(plain for _, plain in runs), 1),
            "ratio": round(ratio, 3),
            "target": TARGETS[name],
            "runs": [[round(value, 1) for value in run] for run in runs],
        }
        print(name, {key: value for key, value in results[name].items() if key != "runs"}, flush=True)
    return results


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


def markdown(record: dict) -> str:
    lines = [
        f"# Engine against a plain torch loop, {record['cpu']}",
        "",
        f"{record['date']}, commit {record['commit']}, torch {record['torch']}, {record['threads']} threads, {record['clock']} time, "
        f"torch's CPU capability {record['cpu_capability']}, load average at start {record['load_average']}. Command: `{record['command']}`.",
        "",
        f"SmolLM2-135M. decode-N: N sequences, prompts of {PROMPT}, the {OUTPUT - 1} tokens after the first; concurrent-32: 32 requests of"
        " 64 in, 32 out, against a serial loop over them; prefill-512: one prompt to its first token. Tokens per second, medians of"
        " interleaved runs.",
        "",
        "| dtype | case | engine | plain loop | ratio | target |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for dtype, cases in record["results"].items():
        for name, row in cases.items():
            lines.append(
                f"| {dtype} | {name} | {row['ours_tok_s']} | {row['plain_tok_s']} | {row['ratio']} | {row['target']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cases", default=",".join(TARGETS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "command": "python " + " ".join(sys.argv),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": args.threads,
        "clock": args.clock,
        "load_average": os.getloadavg()[0],
        "results": {},
    }
    for dtype in args.dtypes.split(","):
        print(dtype, flush=True)
        record["results"][dtype] = measure(
            Arms(args.model, dtype, args.threads), args.repetitions, args.cases.split(","), CLOCKS[args.clock]
        )
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(markdown(record))


if __name__ == "__main__":
    main()
