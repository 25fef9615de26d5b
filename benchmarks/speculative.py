"""Speculative decoding by prompt lookup on one CPU thread: tokens per step, acceptance and CPU time per token, against plain decoding.

    python benchmarks/speculative.py --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

SmolLM2 in float32, greedy. Three texts, from much to little repetition. The arms take turns within a repetition; each ratio is the median of the
ratios within a repetition. Every arm must give the same tokens, or the run fails. CPU time, so that other work on the machine counts less.
"""

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.decoding import PromptLookup
from nanopd.engine import Engine
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.tokenizer import load_tokenizer
from nanopd.workers.wall_clock import WallClock

NUM_BLOCKS, NUM_TOKENS = 256, 64


@dataclass(frozen=True)
class Arm:
    """A way to decode: so many tokens guessed at most, all of them always or as many as pay. None: plain decoding."""

    num_draft_tokens: int = 0
    is_adaptive: bool = False


PLAIN = Arm()
ARMS = (PLAIN, Arm(4), Arm(4, True), Arm(8), Arm(8, True))

_LINES = "\n".join(
    f"server {i}: address 10.0.{i}.{i * 3 + 1}, port {8000 + i}, region eu-west-{i % 3}" for i in range(8)
)
TEXTS = {
    "copy a list": f"Repeat the following list exactly as it is.\n{_LINES}",
    "continue a pattern": "Continue this list of squares up to 30.\n"
    + "\n".join(f"{i} squared is {i * i}" for i in range(1, 9)),
    "tell a story": "Tell me a short story about a lighthouse keeper and a storm.",
}


@dataclass(frozen=True)
class Run:
    """One answer."""

    tokens: tuple[int, ...]
    cpu_s: float  # after the first token
    num_steps: int
    num_draft_tokens: int
    num_accepted_tokens: int

    @property
    def acceptance(self) -> float:
        return self.num_accepted_tokens / max(self.num_draft_tokens, 1)


def answer(runner: ModelRunner, prompts: list[list[int]], arm: Arm) -> Run:
    """Answers the prompts together; everything is counted from when each has its first token."""
    drafter = PromptLookup(arm.num_draft_tokens) if arm.num_draft_tokens else None
    blocks = BlockManager(NUM_BLOCKS, 16, enable_prefix_cache=False)
    config = SchedulerConfig(prefill_chunk_size=None, adapts_drafts=arm.is_adaptive)
    scheduler = Scheduler(config, blocks, runner.max_model_len)
    engine = Engine(scheduler, runner, WallClock(), drafter=drafter)
    outputs: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
        engine.run_local(str(index), Request(str(index), tuple(prompt), sampling))
    while len(outputs) < len(prompts):
        for output in engine.step().outputs:
            outputs.setdefault(output.seq_id, []).extend(output.token_ids)
    first_steps, started = engine.stats().num_steps, time.process_time()
    while engine.has_work:
        for output in engine.step().outputs:
            outputs[output.seq_id].extend(output.token_ids)
    cpu_s, stats = time.process_time() - started, engine.stats()
    tokens = tuple(token for index in range(len(prompts)) for token in outputs[str(index)])
    return Run(tokens, cpu_s, stats.num_steps - first_steps, stats.num_draft_tokens, stats.num_accepted_tokens)


def measure(runner: ModelRunner, prompts: list[list[int]], repetitions: int) -> list[dict]:
    """One row per arm."""
    rounds = []
    for _ in range(repetitions):
        order = list(ARMS)
        random.shuffle(order)
        runs = {arm: answer(runner, prompts, arm) for arm in order}
        if len({run.tokens for run in runs.values()}) != 1:
            raise SystemExit("an arm's tokens differ from plain decoding's")
        rounds.append(runs)
    num_timed = len(rounds[0][PLAIN].tokens) - len(prompts)
    return [
        {
            "num_draft_tokens": arm.num_draft_tokens,
            "is_adaptive": arm.is_adaptive,
            "tokens_per_step": round(
                num_timed / median(runs[arm].num_steps for runs in rounds), 2
            ),  # of the whole batch
            "num_drafted": median(runs[arm].num_draft_tokens for runs in rounds),
            "acceptance": round(median(runs[arm].acceptance for runs in rounds), 3),
            "cpu_ms_per_token": round(median(runs[arm].cpu_s for runs in rounds) / num_timed * 1e3, 2),
            "speedup": round(median(runs[PLAIN].cpu_s / runs[arm].cpu_s for runs in rounds), 2),
            "cpu_s": [round(runs[arm].cpu_s, 3) for runs in rounds],
        }
        for arm in ARMS
    ]


def markdown(record: dict) -> str:
    lines = [
        "# Speculative decoding by prompt lookup on one CPU thread",
        "",
        f"{record['date']}, commit {record['commit']}, {record['cpu']}, torch {record['torch']}, one thread, CPU time, load average at"
        f" start {record['load_average']}, {record['repetitions']} repetitions. Command: `{record['command']}`.",
        "",
        f"SmolLM2-135M-Instruct, float32, greedy, {NUM_TOKENS} tokens, timed from the first token on; all arms give the same tokens. Draft 0 is"
        " plain decoding; an adaptive draft is as long as it pays, at most so long. Tokens per step are those of the whole batch.",
        "",
        "| text | sequences | draft | tokens per step | guessed | accepted | CPU ms per token | speed-up |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in record["cases"]:
        for row in case["rows"]:
            draft = f"{row['num_draft_tokens']}{', adaptive' if row['is_adaptive'] else ''}"
            guesses = f"{row['num_drafted']:.0f} | {row['acceptance']:.0%}" if row["num_draft_tokens"] else " | "
            lines.append(
                f"| {case['text']} | {case['num_sequences']} | {draft} | {row['tokens_per_step']} | {guesses} |"
                f" {row['cpu_ms_per_token']} | {row['speedup']} |"
            )
    return "\n".join(lines) + "\n"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = EngineConfig(dtype="float32", device="cpu", num_threads=1, cache=CacheConfig(num_blocks=NUM_BLOCKS))
    runner, tokenizer = ModelRunner.load(config), load_tokenizer(config)
    prompts = {name: list(tokenizer.encode_chat([{"role": "user", "content": text}])) for name, text in TEXTS.items()}
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": git("rev-parse", "--short", "HEAD")
        + (" with changes" if git("status", "--porcelain", "nanopd") else ""),
        "command": shlex.join(["python", *sys.argv]),
        "cpu": next(line.split(":", 1)[1].strip() for line in cpu_lines if line.startswith("model name")),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2),
        "repetitions": args.repetitions,
        "cases": [],
    }
    for name, token_ids in [*prompts.items(), ("all three together", None)]:
        batch = list(prompts.values()) if token_ids is None else [token_ids]
        rows = measure(runner, batch, args.repetitions)
        record["cases"].append({"text": name, "num_sequences": len(batch), "rows": rows})
        for row in rows:
            print(name, {key: value for key, value in row.items() if key != "cpu_s"}, flush=True)
        if args.out is not None:
            args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
            args.out.with_suffix(".md").write_text(markdown(record))


if __name__ == "__main__":
    main()
