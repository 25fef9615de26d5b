"""The whole engine on one GPU: decode step, prefill, offline throughput. Qwen3-8B shapes, random weights, bf16, one process.

    python benchmarks/gpu_engine.py --out benchmarks/results/NAME      (writes NAME.json; run peer_vllm.py on the same machine for the peer's figures)

Method, the same for any peer: prompts of random token ids; a decode step is (time of 257 output tokens - time of 1 output token) / 256 at context
1024 to 1280, greedy; prefill is the time to one output token, the best of three; offline is the time to finish all requests, temperature 0.6.
"""

import argparse
import json
import random
import subprocess
import time
from pathlib import Path

import torch

from nanopd.batch import Batch
from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.model_runner import ModelRunner
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.workers.wall_clock import WallClock

MODEL = str(Path(__file__).parent / "models" / "qwen3-8b")


class Bench:
    """An engine, and what it has measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        config = EngineConfig(
            model=args.model,
            load_format=args.load_format,
            dtype="bfloat16",
            device="cuda",
            max_model_len=32768,
            cuda_graphs=not args.no_graphs,
            cache=CacheConfig(block_size=16, memory_fraction=0.9, enable_prefix_cache=False),
            scheduler=SchedulerConfig(
                max_num_seqs=512, max_num_batched_tokens=args.max_tokens, prefill_chunk_size=None
            ),
        )
        started = time.perf_counter()
        self.runner = ModelRunner.load(config)
        blocks = BlockManager(self.runner.kv_cache.pool.shape[1], 16, False)
        self.engine = Engine(Scheduler(config.scheduler, blocks, 32768), self.runner, WallClock(), args.depth)
        self.rows: list[dict] = [{"what": "startup", "s": round(time.perf_counter() - started, 1)}]
        self._random = random.Random(0)
        self._count = 0
        self.device_ms: list[float] = []
        self._watch(self.runner)

    def _watch(self, runner: ModelRunner) -> None:
        """Notes the device time of every step, for the idle share."""
        submit, notes = runner.submit, self.device_ms

        class Watched:
            def __init__(self, handle) -> None:
                self.done, self._handle = handle.done, handle

            def result(self):
                result = self._handle.result()
                notes.append(result.device_ms or 0.0)
                return result

        def watched(batch: Batch) -> Watched:
            return Watched(submit(batch))

        runner.submit = watched  # type: ignore[method-assign]

    def generate(self, specs: list[tuple[int, int]], temperature: float = 0.0) -> float:
        """Seconds to serve prompts of the given (input, output) lengths, all arriving at once."""
        requests = []
        for num_in, num_out in specs:
            prompt = tuple(
                self._random.randrange(1000, self.runner.model_config.vocab_size - 1000) for _ in range(num_in)
            )
            params = SamplingParams(max_tokens=num_out, temperature=temperature, seed=self._count, ignore_eos=True)
            requests.append(Request(f"r{self._count}", prompt, params))
            self._count += 1
        num_tokens, expected = 0, sum(num_out for _, num_out in specs)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for request in requests:
            self.engine.run_local(request.request_id, request)
        while self.engine.has_work:
            for output in self.engine.step().outputs:
                num_tokens += len(output.token_ids)
        elapsed = time.perf_counter() - started
        assert num_tokens == expected, f"expected {expected} tokens, got {num_tokens}"
        return elapsed

    def note(self, **row: object) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def decode(self, batches: list[int]) -> None:
        for batch in batches:
            first = self.generate([(1024, 1)] * batch)
            self.device_ms.clear()
            both = self.generate([(1024, 257)] * batch)
            steps = sorted(self.device_ms[-250:])
            self.note(
                what="decode",
                B=batch,
                ctx=1024,
                itl_ms=round((both - first) / 256 * 1e3, 3),
                device_step_ms=round(steps[len(steps) // 2], 3),
                prefill_s=round(first, 4),
            )

    def idle(self, batch: int, num_steps: int = 400) -> None:
        """The share of a decode-only run in which the GPU had nothing to do."""
        for _ in range(batch):
            prompt = tuple(self._random.randrange(1000, 150000) for _ in range(1024))
            params = SamplingParams(max_tokens=num_steps + 50, temperature=0.0, seed=0, ignore_eos=True)
            self.engine.run_local(f"i{self._count}", Request(f"i{self._count}", prompt, params))
            self._count += 1
        num_outputs = 0
        while num_outputs < 30 * batch:  # past the prefill
            num_outputs += sum(len(o.token_ids) for o in self.engine.step().outputs)
        self.device_ms.clear()
        started = time.perf_counter()
        for _ in range(num_steps):
            self.engine.step()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        busy_ms = sum(self.device_ms)
        self.note(
            what="idle",
            B=batch,
            wall_ms=round(elapsed_ms, 1),
            busy_ms=round(busy_ms, 1),
            idle_share=round(1 - busy_ms / elapsed_ms, 4),
        )
        while self.engine.has_work:
            self.engine.step()

    def prefill(self, cases: list[tuple[int, int]]) -> None:
        for length, batch in cases:
            best = min(self.generate([(length, 1)] * batch) for _ in range(3))
            self.note(what="prefill", L=length, B=batch, s=round(best, 4), tok_s=round(length * batch / best))

    def offline(self, num_requests: int, seed: int) -> None:
        rand = random.Random(seed)
        specs = [(rand.randint(100, 1024), rand.randint(100, 1024)) for _ in range(num_requests)]
        elapsed = self.generate(specs, temperature=0.6)
        num_out, num_in = sum(o for _, o in specs), sum(i for i, _ in specs)
        self.note(
            what=f"offline-{num_requests}",
            s=round(elapsed, 2),
            out_tok_s=round(num_out / elapsed),
            total_tok_s=round((num_out + num_in) / elapsed),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--depth", type=int, default=2, help="steps in flight")
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens in one step at most")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--parts", default="decode,idle,prefill,offline")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = Bench(args)
    print(json.dumps(bench.rows[0]), flush=True)
    bench.generate([(64, 16)] * 4)
    parts = args.parts.split(",")
    if "decode" in parts:
        bench.decode([1, 8, 32, 64, 128, 256])
    if "idle" in parts:
        bench.idle(64)
    if "prefill" in parts:
        bench.prefill([(512, 1), (2048, 1), (8192, 1), (16384, 1), (1024, 8), (1024, 32)])
    if "offline" in parts:
        bench.offline(256, 0)
    if args.out is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        record = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "commit": commit,
            "args": vars(args) | {"out": str(args.out)},
        }
        args.out.with_suffix(".json").write_text(json.dumps(record | {"rows": bench.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
