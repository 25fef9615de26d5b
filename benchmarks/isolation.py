"""What prefills do to running decodes: a decode batch undisturbed, and beside long prompts that come back to back.

    python benchmarks/isolation.py --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

Two arms: prefill and decode on workers of their own (1P+1D: on two GPUs where there are two), and the same load on one collocated worker with
chunked prefill. In each, ``--batch`` sequences decode for ``--seconds``, once without prompts and once with. Three clocks tell the host's part from
the device's: the time between two tokens of one sequence at the client, the time between two steps' results in the decoding worker, and the device's
own time for a step. Must show: the first one's p99 rises by at most 5 % in the separated arm.
"""

import argparse
import asyncio
import json
import random
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import count, cycle, pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec

from nanopd.bench.environment import describe_environment
from nanopd.config.options import build_configs
from nanopd.request import Request, SamplingParams, Strategy
from nanopd.runtime.controller import Controller
from nanopd.tracing.logs import TracedStep, read_logs

MODEL = str(Path(__file__).parent / "models" / "qwen3-8b")
ARMS = {"separated": ("1P+1D", Strategy.DISAGGREGATED), "collocated": ("1C", Strategy.COLLOCATED)}
_WARM_UP_S = 1.5
_PAUSE_S = 0.5  # in which the workers let go of what was aborted
_NUM_PROMPTS = 8  # made before, taken in turn: making one takes as long as a decode step

Prompt = tuple[int, ...]


@dataclass(slots=True)
class Window:
    """What was seen while the whole batch was decoding."""

    began: float = 0.0
    ended: float = 0.0
    gaps_ms: list[float] = field(default_factory=list)  # between two tokens of one sequence
    num_prompts: int = 0  # that ended meanwhile

    @property
    def is_open(self) -> bool:
        return self.began > 0.0 and self.ended == 0.0


class Load:
    """Decodes and, beside them, prompts."""

    def __init__(self, controller: Controller, strategy: Strategy, args: argparse.Namespace) -> None:
        self._controller = controller
        self._strategy = strategy
        self._args = args
        self._ids = count()
        rng, tokens = random.Random(0), range(args.vocab_size // 100, args.vocab_size)
        self._short = [tuple(rng.choices(tokens, k=args.context)) for _ in range(args.batch)]
        self._long = cycle([tuple(rng.choices(tokens, k=args.prompt)) for _ in range(_NUM_PROMPTS)])

    async def run(self, with_prompts: bool, seconds: float) -> Window:
        """Starts the batch, waits until all of it decodes, measures, and ends it."""
        window, batch = Window(), self._args.batch
        decoding = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(self._decode(prompt, window, decoding)) for prompt in self._short]
        for _ in range(batch):
            await decoding.acquire()
        if with_prompts:  # two at any time, so that the prefill worker never waits for the next
            tasks += [asyncio.create_task(self._prompts(window)) for _ in range(2)]
            await asyncio.sleep(seconds / 10)
        window.began = time.monotonic()
        await asyncio.sleep(seconds)
        window.ended = time.monotonic()
        assert not any(task.done() for task in tasks), "the decodes ended early: --max-tokens is too small"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(_PAUSE_S)
        return window

    async def _decode(self, prompt: Prompt, window: Window, decoding: asyncio.Semaphore) -> None:
        last = 0.0
        async for _ in self._submit(prompt, self._args.max_tokens):
            now = time.monotonic()
            if last == 0.0:
                decoding.release()
            if window.is_open and last > window.began:
                window.gaps_ms.append((now - last) * 1e3)
            last = now

    async def _prompts(self, window: Window) -> None:
        while True:
            async for _ in self._submit(next(self._long), 1):
                window.num_prompts += window.is_open

    async def _submit(self, prompt: Prompt, num_output: int) -> Any:
        params = SamplingParams(max_tokens=num_output, temperature=0.0, ignore_eos=True)
        request = Request(f"r{next(self._ids)}", prompt, params, strategy=self._strategy)
        try:
            async for delta in self._controller.submit(request):
                yield delta
        finally:
            self._controller.abort(request.request_id)


@dataclass(frozen=True, slots=True)
class Seen:
    """Milliseconds of one window by three clocks."""

    client: list[float]
    worker: list[float]  # between the results of two steps
    device: list[float]  # of a step

    @classmethod
    def of(cls, window: Window, steps: list[TracedStep]) -> "Seen":
        inside = [step for step in steps if step.num_decodes and window.began < step.landed < window.ended]
        between = [(later.landed - earlier.landed) * 1e3 for earlier, later in pairwise(inside)]
        return cls(window.gaps_ms, between, [step.device_ms for step in inside if step.device_ms is not None])


async def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    workers, strategy = ARMS[name]
    with tempfile.TemporaryDirectory() as traces:
        options = {
            "model": args.model,
            "load_format": args.load_format,
            "device": args.device,
            "enable_prefix_cache": False,
            "max_num_seqs": args.batch + 8,
            "max_model_len": max(args.prompt, args.context + args.max_tokens) + 16,
            "num_blocks": args.num_blocks,
            "trace_dir": traces,
        }
        engine, cluster = build_configs({"workers": workers, "strategy": strategy, **options})
        controller = Controller(engine, cluster)
        await controller.start()
        load = Load(controller, strategy, args)
        await load.run(True, _WARM_UP_S)
        windows = {}
        for what in ("alone", "beside"):
            windows[what] = window = await load.run(what == "beside", args.seconds)
            print(f"{name}, {what}: {len(window.gaps_ms)} gaps, median {median(window.gaps_ms):.2f} ms", flush=True)
        await controller.stop()
        logs, _ = read_logs(Path(traces))
    steps = [step for log in logs if not log.worker_id.startswith("prefill") for step in log.steps]
    row: dict[str, Any] = {"arm": name, "workers": workers, "prompts_beside": windows["beside"].num_prompts}
    for clock in Seen.__slots__:
        for what, window in windows.items():
            times = getattr(Seen.of(window, steps), clock)
            if not times:  # a CPU has no clock of its own
                continue
            hundredths = quantiles(times, n=100, method="inclusive")
            row |= {
                f"{clock}_{what}_p50_ms": round(hundredths[49], 3),
                f"{clock}_{what}_p99_ms": round(hundredths[98], 3),
            }
        if f"{clock}_alone_p99_ms" in row:
            row[f"{clock}_p99_ratio"] = round(row[f"{clock}_beside_p99_ms"] / row[f"{clock}_alone_p99_ms"], 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vocab-size", type=int, default=150_000, help="prompts are random token ids below it")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=2048, help="more than a sequence decodes in the time")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--prompt", type=int, default=8192)
    parser.add_argument("--num-blocks", type=int, default=12288, help="KV blocks of each worker")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.arms.split(","):
        rows.append(asyncio.run(measure(name, args)))
        print(json.dumps(rows[-1]), flush=True)
    if args.out is not None:
        write(args.out, rows)


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    environment = msgspec.to_builtins(describe_environment())
    command = shlex.join(["python", *sys.argv])
    record = {"date": time.strftime("%Y-%m-%d"), "environment": environment, "command": command, "rows": rows}
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [f"# Decodes beside prefills, {record['date']}", ""]
    hardware = ", ".join(environment["gpus"]) or environment["cpu"]
    lines += [f"{hardware}, commit {environment['commit']}; `{command}`. Method: `benchmarks/isolation.py`.", ""]
    lines += [f"| {' | '.join(['', *(row['arm'] for row in rows)])} |", "|" + " --- |" * (len(rows) + 1)]
    for name in list(rows[0])[1:]:
        lines.append(f"| {' | '.join([_heading(name), *(str(row.get(name, '')) for row in rows)])} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _heading(name: str) -> str:
    return (name.removesuffix("_ms") + (", ms" if name.endswith("_ms") else "")).replace("_", " ")


if __name__ == "__main__":
    main()
