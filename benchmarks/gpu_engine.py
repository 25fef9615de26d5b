"""The whole engine on one GPU: decode steps, prefill, prompts beside decodes, offline throughput. Qwen3-8B shapes, random weights, bf16, one process.

    python benchmarks/gpu_engine.py --out benchmarks/results/NAME [--peer FILE]      (writes NAME.json)

FILE holds what a peer's benchmark printed on the same machine: its name and version, then rows like ours, one JSON object a line.

Method, the same for any peer: prompts of random token ids; a decode step is (time of 257 output tokens - time of 1 output token) / 256 at context
1024 to 1280, greedy; prefill is the time to one output token, the best of three; offline is the time to finish all requests, temperature 0.6.
A mixed step has one whole prompt beside decodes of 1024 tokens of context: the time of eight such steps in a row, over eight.
"""

import argparse
import json
import random
import subprocess
import time
from pathlib import Path

import torch

from nanopd.batch import Batch, StepResult
from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.engine.executor import StepHandle
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler, longest_first
from nanopd.workers.wall_clock import WallClock

REPO = Path(__file__).resolve().parents[1]
MODEL = REPO / "benchmarks" / "models" / "qwen3-8b"
CONTEXT = 1024  # of decodes
MIXED_STEPS = 8
OFFLINE = ("given:16384", "longest:16384", "longest:384", "longest:512:256")


class Watched:
    """A step whose device time is noted, with how many prompt tokens it has."""

    def __init__(self, batch: Batch, handle: StepHandle, notes: list[tuple[int, float]]) -> None:
        self.done, self._handle, self._notes = handle.done, handle, notes
        self._num_prefill_tokens = batch.work().num_prefill_tokens

    def result(self) -> StepResult:
        result = self._handle.result()
        self._notes.append((self._num_prefill_tokens, result.device_ms or 0.0))
        return result


class Bench:
    """A model, and what has been measured of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.config = EngineConfig(
            model=str(args.model),
            load_format=args.load_format,
            dtype="bfloat16",
            device="cuda",
            max_model_len=32768,
            cuda_graphs=not args.no_graphs,
            cache=CacheConfig(block_size=16, memory_fraction=0.9, enable_prefix_cache=False),
            scheduler=SchedulerConfig(max_num_seqs=512, max_num_batched_tokens=16384),
        )
        self.depth = args.depth
        started = time.perf_counter()
        self.runner = ModelRunner.load(self.config)
        self.rows: list[dict] = []
        self.note(what="startup", s=round(time.perf_counter() - started, 1))
        self._random = random.Random(0)
        self._count = 0
        self.steps: list[tuple[int, float]] = []  # (prompt tokens, device ms)
        submit = self.runner.submit
        self.runner.submit = lambda batch: Watched(batch, submit(batch), self.steps)  # type: ignore[assignment, method-assign, return-value]
        self.engine = self.new_engine(16384)

    def new_engine(self, max_tokens: int, multiple: int | None = None) -> Engine:
        scheduler = SchedulerConfig(
            max_num_seqs=512, max_num_batched_tokens=max_tokens, prefill_chunk_size=None, step_multiple=multiple
        )
        blocks = BlockManager(self.runner.kv_cache.num_blocks, 16, False)
        return Engine(Scheduler(scheduler, blocks, 32768), self.runner, WallClock(), self.depth)

    def note(self, **row: object) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def request(self, num_in: int, num_out: int, temperature: float = 0.0) -> Request:
        prompt = tuple(self._random.randrange(1000, self.runner.model_config.vocab_size - 1000) for _ in range(num_in))
        params = SamplingParams(max_tokens=num_out, temperature=temperature, seed=self._count, ignore_eos=True)
        self._count += 1
        return Request(f"r{self._count}", prompt, params)

    def generate(self, engine: Engine, requests: list[Request]) -> float:
        """Seconds to serve requests that all arrive at once."""
        num_tokens, expected = 0, sum(request.sampling.max_tokens or 0 for request in requests)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for request in requests:
            engine.run_local(request.request_id, request)
        while engine.has_work:
            num_tokens += sum(len(output.token_ids) for output in engine.step().outputs)
        elapsed = time.perf_counter() - started
        assert num_tokens == expected, f"expected {expected} tokens, got {num_tokens}"
        return elapsed

    def start_decodes(self, engine: Engine, batch: int, num_out: int) -> list[str]:
        """Sequences past their prompts; the steps noted begin here."""
        requests = [self.request(CONTEXT, num_out) for _ in range(batch)]
        for request in requests:
            engine.run_local(request.request_id, request)
        started: set[str] = set()
        while len(started) < batch:
            started |= {output.seq_id for output in engine.step().outputs}
        for _ in range(self.depth):  # the steps in flight may have prompts yet
            engine.step()
        self.steps.clear()
        return [request.request_id for request in requests]

    def stop(self, engine: Engine, seq_ids: list[str]) -> None:
        for seq_id in seq_ids:
            engine.abort(seq_id)
        while engine.has_work:
            engine.step()

    def decode(self, batches: list[int]) -> None:
        for batch in batches:
            first = self.generate(self.engine, [self.request(CONTEXT, 1) for _ in range(batch)])
            self.steps.clear()
            both = self.generate(self.engine, [self.request(CONTEXT, 257) for _ in range(batch)])
            steps = sorted(ms for _, ms in self.steps[-250:])
            self.note(
                what="decode",
                B=batch,
                ctx=CONTEXT,
                itl_ms=round((both - first) / 256 * 1e3, 3),
                device_step_ms=round(steps[len(steps) // 2], 3),
                prefill_s=round(first, 4),
            )

    def idle(self, batch: int, num_steps: int = 400) -> None:
        """The share of a decode-only run in which the GPU had nothing to do."""
        seq_ids = self.start_decodes(self.engine, batch, num_steps + 50)
        started = time.perf_counter()
        for _ in range(num_steps):
            self.engine.step()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        busy_ms = sum(ms for _, ms in self.steps)
        self.note(
            what="idle",
            B=batch,
            wall_ms=round(elapsed_ms, 1),
            busy_ms=round(busy_ms, 1),
            idle_share=round(1 - busy_ms / elapsed_ms, 4),
        )
        self.stop(self.engine, seq_ids)

    def prefill(self, cases: list[tuple[int, int]]) -> None:
        for length, batch in cases:
            self.steps.clear()
            best = min(
                self.generate(self.engine, [self.request(length, 1) for _ in range(batch)])
                for _ in range(3 if length * batch > 1024 else 6)
            )
            device_ms = min(ms for _, ms in self.steps)  # of one step, where the prompts fit in one
            self.note(
                what="prefill",
                L=length,
                B=batch,
                s=round(best, 4),
                tok_s=round(length * batch / best),
                device_ms=round(device_ms, 3),
            )

    def mixed(self, cases: list[tuple[int, int]]) -> None:
        for num_new, batch in cases:
            engine = self.new_engine(num_new + batch)
            seq_ids = self.start_decodes(engine, batch, 1000)
            wanted = {request.request_id: request for request in (self.request(num_new, 1) for _ in range(MIXED_STEPS))}
            started = time.perf_counter()
            for seq_id, request in wanted.items():
                engine.run_local(seq_id, request)
            while wanted:
                for output in engine.step().outputs:
                    wanted.pop(output.seq_id, None)
            wall_ms = (time.perf_counter() - started) * 1e3 / MIXED_STEPS
            steps = sorted(ms for num_prefill_tokens, ms in self.steps if num_prefill_tokens)
            assert len(steps) == MIXED_STEPS, f"expected {MIXED_STEPS} steps with one prompt each, got {len(steps)}"
            self.note(
                what="mixed",
                new=num_new,
                B=batch,
                wall_ms=round(wall_ms, 3),
                device_ms=round(steps[MIXED_STEPS // 2], 3),
            )
            self.stop(engine, seq_ids)

    def offline(self, num_requests: int, seed: int, arms: list[str]) -> None:
        """``arms``: order:tokens of a step[:multiple that prompts fill it to]; order given or longest (first)."""
        for arm in arms:
            order, max_tokens, *multiple = arm.split(":")
            rand = random.Random(seed)
            specs = [(rand.randint(100, 1024), rand.randint(100, 1024)) for _ in range(num_requests)]
            requests = [self.request(*spec, temperature=0.6) for spec in specs]
            if order == "longest":
                requests = [requests[i] for i in longest_first([num_out for _, num_out in specs])]
            engine = self.new_engine(int(max_tokens), int(multiple[0]) if multiple else None)
            self.steps.clear()
            elapsed = self.generate(engine, requests)
            num_out, num_in = sum(o for _, o in specs), sum(i for i, _ in specs)
            self.note(
                what=f"offline-{num_requests}",
                order=order,
                max_tokens=int(max_tokens),
                multiple=int(multiple[0]) if multiple else None,
                s=round(elapsed, 2),
                out_tok_s=round(num_out / elapsed),
                total_tok_s=round((num_out + num_in) / elapsed),
                steps=len(self.steps),
                mixed_steps=sum(1 for num_prefill_tokens, _ in self.steps if num_prefill_tokens),
                idle_share=round(1 - sum(ms for _, ms in self.steps) / elapsed / 1e3, 4),
            )


def peer_record(printed: str) -> dict:
    """The lines that are JSON are rows; the first other one says which engine it was."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return {"engine": next(line for line in lines if not line.startswith("{")), "rows": rows}


def record(args: argparse.Namespace, rows: list[dict]) -> dict:
    """Paths relative to the repository: records say nothing of the machine's folders."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    paths = {name: value.resolve() for name, value in vars(args).items() if isinstance(value, Path)}
    relative = {
        name: str(path.relative_to(REPO) if path.is_relative_to(REPO) else path.name) for name, path in paths.items()
    }
    peer = {"peer": peer_record(args.peer.read_text())} if args.peer else {}
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": commit,
        "args": vars(args) | relative,
        "rows": rows,
    } | peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--depth", type=int, default=2, help="steps in flight")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--parts", default="decode,idle,prefill,mixed,offline")
    parser.add_argument(
        "--offline", nargs="*", default=list(OFFLINE), help="order:tokens of a step[:multiple], order given or longest"
    )
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = Bench(args)
    for temperature in (0.0, 0.6):
        bench.generate(bench.engine, [bench.request(64, 16, temperature) for _ in range(4)])
    parts = args.parts.split(",")
    if "decode" in parts:
        bench.decode([1, 8, 32, 64, 128, 256])
    if "idle" in parts:
        bench.idle(64)
    if "prefill" in parts:
        lengths = (64, 128, 256, 512, 2048, 8192, 16384)
        bench.prefill([*((length, 1) for length in lengths), (1024, 8), (1024, 32)])
    if "mixed" in parts:
        bench.mixed([(512, 4), (508, 4), (512, 64), (448, 64), (2048, 4), (2048, 64)])
    if "offline" in parts:
        bench.offline(256, 0, args.offline)
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(record(args, bench.rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
