"""How to fill the steps when all requests are there from the start: the engine's own scheduler, played with modelled steps of an H200.

    python benchmarks/offline_schedule.py [--json FILE]

256 requests, prompts and answers of 100 to 1024 tokens, the longest answer first, as in gpu_engine.py. A step takes what one of as many tokens took
in two records (a prompt alone as a graph, a decode at context 1152), plus the reading of its decodes' KV, plus the head. Which way of
filling is better, and by how much: that the model says to a percent; the seconds themselves were 3 % more on a GPU.
"""

import argparse
import json
import random
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from nanopd.batch import Batch, StepResult
from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler, longest_first

RESULTS = Path(__file__).parent / "results"
SWEEP, DECODE = "step-graphs_1xh200_2026-11-24.json", "engine-later_qwen3-8b_1xh200_2026-11-24.json"
CONTEXT_MS = 147_456 / 4.26e9  # to read the KV of one token
DECODE_CONTEXT = 1152  # of the decodes measured
HOT = 1.08  # a run at full load against single steps on a cool chip
HEAD_MS, HEAD_MS_256 = 0.38, 0.50  # and sampling, up to 128 rows and beyond
LADDER = (8, 16, 32, 48, 64, 96, 128, 192, *range(256, 2049, 128))  # steps with prompts are padded to these


@dataclass(frozen=True, slots=True)
class Steps:
    """Milliseconds by tokens, for steps with prompts and without. ``saved_ms``: what steps of 129 to 256 tokens are to take less."""

    mixed: list[tuple[float, float]]
    decode: list[tuple[float, float]]
    saved_ms: float = 0.0

    @classmethod
    def measured(cls, saved_ms: float) -> "Steps":
        sweep = json.loads((RESULTS / SWEEP).read_text())["sweep"]["graphs"]
        rows = json.loads((RESULTS / DECODE).read_text())["rows"]
        decode = [
            (r["B"], r["device_step_ms"] - r["B"] * DECODE_CONTEXT * CONTEXT_MS) for r in rows if r["what"] == "decode"
        ]
        return cls([(r["tokens"], r["device_ms"]) for r in sweep], decode, saved_ms)

    def ms(self, batch: Batch) -> float:
        work, num_tokens = batch.work(), batch.num_tokens
        saved = self.saved_ms if 128 < num_tokens <= 256 else 0.0
        if work.num_prefills == 0:
            return _between(self.decode, num_tokens) - saved + work.decode_context * CONTEXT_MS
        padded = next((size for size in LADDER if size >= num_tokens), num_tokens)
        num_rows = sum(piece.num_rows for piece in batch.slices)
        own = _between(self.mixed, padded) * (HOT if padded >= 256 else 1.0)
        return own - saved + work.decode_context * CONTEXT_MS + (HEAD_MS if num_rows <= 128 else HEAD_MS_256)


def _between(points: list[tuple[float, float]], x: float) -> float:
    """On the line through the two nearest points; beyond the last one in proportion."""
    index = bisect_left(points, (x, 0.0))
    if index == 0:
        return points[0][1]
    if index == len(points):
        return points[-1][1] * x / points[-1][0]
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


class Modelled:
    """A finished step, and the executor that makes such."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.total_ms = 0.0
        self.num_steps = self.num_mixed = 0
        self._result = StepResult([], [])

    def submit(self, batch: Batch) -> "Modelled":
        num_rows = sum(piece.num_rows for piece in batch.slices)
        self._result = StepResult([1] * num_rows, [None] * num_rows)
        self.total_ms += self._steps.ms(batch)
        self.num_steps += 1
        self.num_mixed += batch.work().num_prefills > 0
        return self

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self._result


def play(steps: Steps, max_tokens: int, multiple: int | None, seed: int) -> dict:
    rand = random.Random(seed)
    specs = [(rand.randint(100, 1024), rand.randint(100, 1024)) for _ in range(256)]
    config = SchedulerConfig(512, max_tokens, None, step_multiple=multiple)
    executor = Modelled(steps)
    engine = Engine(Scheduler(config, BlockManager(65536, 16, False), 4096), executor, VirtualClock())
    for index in longest_first([num_out for _, num_out in specs]):
        num_in, num_out = specs[index]
        sampling = SamplingParams(max_tokens=num_out, temperature=0.0, ignore_eos=True)
        engine.run_local(str(index), Request(str(index), (1,) * num_in, sampling))
    while engine.has_work:
        engine.step()
    rate = sum(num_out for _, num_out in specs) / executor.total_ms * 1e3
    return {
        "max_tokens": max_tokens,
        "multiple": multiple,
        "seed": seed,
        "saved_ms": steps.saved_ms,
        "s": round(executor.total_ms / 1e3, 2),
        "out_tok_s": round(rate),
        "steps": executor.num_steps,
        "mixed_steps": executor.num_mixed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for saved_ms in (0.0, 0.5):
        for max_tokens, multiple in (
            (256, None),
            (384, None),
            (512, None),
            (1024, None),
            (512, 128),
            (512, 256),
            (1024, 512),
        ):
            for seed in range(3):
                rows.append(play(Steps.measured(saved_ms), max_tokens, multiple, seed))
                print(json.dumps(rows[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
