"""Sampling: microseconds beside the time to read the logits once, V = 151,936.

    PYTHONPATH=. python benchmarks/kernels/sampling.py [--sweep] [--dtype float32] [--rows 1,8,32] [--json FILE]

Logits are drawn with a language model's shape ("peaked": a few candidates over a wide floor) and with a plain normal one, whose
cuts lie lower. A CUDA graph of 12 launches over rotating logits, median of seven replays.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from nanopd.kernels.sampling import SamplingConfig, greedy, sample

VOCAB = 151936
LAUNCHES = 12
READ_TB_S = 4.19
SWEEP = (
    (8, 256, 4), (8, 512, 2), (8, 512, 1), (8, 1024, 1), (4, 512, 2), (4, 1024, 1), (2, 512, 2), (2, 1024, 1), (1, 512, 2),
    (1, 1024, 1),
)  # fmt: skip
# name: (top_k, top_p, min_p)
FILTERS = {
    "top_p 0.95": (0, 0.95, 0.0),
    "top_k 20": (20, 1.0, 0.0),
    "top_k 20 top_p 0.95": (20, 0.95, 0.0),
    "top_k 1000 top_p 0.9 min_p 0.01": (1000, 0.9, 0.01),
}
Arms = dict[str, Callable[[int], object]]


def microseconds(launch: Callable[[int], object], copies: int) -> float:
    for i in range(copies):
        launch(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(LAUNCHES):
            launch(i % copies)
    graph.replay()
    samples = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1e3 / LAUNCHES)
    return statistics.median(samples)


def make_logits(num_rows: int, kind: str, dtype: torch.dtype) -> torch.Tensor:
    logits = torch.randn(num_rows, VOCAB, device="cuda") * 2
    if kind == "peaked":
        logits += 12 * (torch.rand_like(logits) < 2e-4)
    return logits.to(dtype)


def label(config: SamplingConfig | None) -> str:
    if config is None:
        return "default"
    return f"{config.cluster}x{config.threads}/{config.min_ctas}"


class Rows:
    """A batch of rows, and the arms that sample it."""

    def __init__(self, num_rows: int, kind: str, dtype: torch.dtype) -> None:
        self.num_bytes = num_rows * VOCAB * dtype.itemsize
        self.copies = max(2, min(6, int(300e6 / self.num_bytes)))
        self.logits = [make_logits(num_rows, kind, dtype) for _ in range(self.copies)]
        self.uniform = torch.rand(num_rows, device="cuda")
        self.temperature = torch.full_like(self.uniform, 0.6)
        self.out = torch.empty(num_rows, dtype=torch.int64, device="cuda")

    def greedy(self, configs: list[SamplingConfig | None]) -> Arms:
        arms: Arms = {label(c): lambda i, c=c: greedy(self.logits[i], self.out, config=c) for c in configs}
        return arms | {"torch argmax": lambda i: torch.argmax(self.logits[i], dim=-1)}

    def drawn(self, configs: list[SamplingConfig | None]) -> Arms:
        arms: Arms = {
            label(c): lambda i, c=c: sample(self.logits[i], self.temperature, self.uniform, out=self.out, config=c)
            for c in configs
        }
        return arms | {"torch softmax": lambda i: torch.softmax(self.logits[i], dim=-1, dtype=torch.float32)}

    def filtered(self, configs: list[SamplingConfig | None], top_k: int, top_p: float, min_p: float) -> Arms:
        k = torch.full_like(self.out, top_k)
        p, floor = torch.full_like(self.uniform, top_p), torch.full_like(self.uniform, min_p)
        return {
            label(c): lambda i, c=c: sample(
                self.logits[i], self.temperature, self.uniform, k, p, floor, self.out, config=c
            )
            for c in configs
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="several shapes of the launch")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", default="1,8,32,64,128,256")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    configs: list[SamplingConfig | None] = [SamplingConfig(*shape) for shape in SWEEP] if options.sweep else [None]
    record: dict[str, dict[str, float]] = {}

    def report(title: str, rows: Rows, arms: Arms) -> None:
        record[title] = {"floor": rows.num_bytes / READ_TB_S / 1e6}
        for arm, launch in arms.items():
            try:
                record[title][arm] = microseconds(launch, rows.copies)
            except Exception as error:
                print(f"  {title} {arm}: {type(error).__name__} {str(error)[:200]}")
        print(f"{title}: {', '.join(f'{arm} {us:.1f}' for arm, us in record[title].items())}", flush=True)

    for num_rows in map(int, options.rows.split(",")):
        for kind in ("peaked", "normal"):
            rows = Rows(num_rows, kind, dtype)
            if kind == "peaked":
                report(f"greedy B={num_rows}", rows, rows.greedy(configs))
                report(f"temperature B={num_rows}", rows, rows.drawn(configs))
            for name, (top_k, top_p, min_p) in FILTERS.items():
                report(f"{name} {kind} B={num_rows}", rows, rows.filtered(configs, top_k, top_p, min_p))
    if options.json:
        options.json.write_text(
            json.dumps({"device": torch.cuda.get_device_name(), "dtype": options.dtype, "us": record}, indent=1)
        )


if __name__ == "__main__":
    main()
