"""Sampling: microseconds beside the time to read the logits once, V = 151,936.

    PYTHONPATH=. python benchmarks/kernels/sampling.py [--sweep] [--json FILE]

Logits are drawn with a language model's shape (a few candidates over a wide floor) and with a plain normal one, whose cuts lie
lower. A CUDA graph of 12 launches over rotating logits, median of seven replays.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from nanopd.kernels.sampling import HOPPER, HOPPER_GREEDY, ONE_CTA, SamplingConfig, greedy, sample

VOCAB = 151936
LAUNCHES = 12
READ_TB_S = 4.19


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


def configs(sweep: bool) -> tuple[list[SamplingConfig], list[SamplingConfig]]:
    if not sweep:
        return [HOPPER_GREEDY], [HOPPER]
    greedies = [SamplingConfig(c, t, m, False) for c, t, m in ((8, 256, 4), (8, 512, 2), (4, 256, 4), (4, 512, 2), (1, 1024, 1))]
    drawn = [SamplingConfig(c, t, m, True) for c, t, m in
             ((8, 512, 2), (8, 512, 3), (8, 256, 4), (4, 512, 2), (4, 1024, 1), (4, 512, 3), (4, 256, 3))]
    return greedies, [*drawn, ONE_CTA]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    greedy_configs, drawn_configs = configs(options.sweep)
    record: dict[str, dict[str, float]] = {}

    def report(name: str, num_bytes: int, arms: dict[str, Callable[[int], object]], copies: int) -> None:
        floor = num_bytes / READ_TB_S / 1e6
        record[name] = {"floor": floor}
        for arm, launch in arms.items():
            try:
                record[name][arm] = microseconds(launch, copies)
            except Exception as error:
                print(f"  {name} {arm}: {type(error).__name__} {str(error)[:200]}")
        print(f"{name}: " + ", ".join(f"{arm} {us:.1f}" for arm, us in record[name].items()), flush=True)

    def label(config: SamplingConfig) -> str:
        return f"{config.cluster}x{config.threads}/{config.min_ctas}{'' if config.slice_in_shared else 'g'}"

    for num_rows in (1, 8, 32, 64, 256):
        copies = max(2, min(6, int(300e6 / (num_rows * VOCAB * 2))))
        for kind in ("peaked", "normal"):
            logits = [make_logits(num_rows, kind, torch.bfloat16) for _ in range(copies)]
            size = num_rows * VOCAB * 2
            ones = torch.ones(num_rows, device="cuda")
            temperature = ones * 0.6
            uniform = torch.rand(num_rows, device="cuda")
            out = torch.empty(num_rows, dtype=torch.int64, device="cuda")
            zeros, k_off = torch.zeros_like(ones), torch.zeros(num_rows, dtype=torch.int64, device="cuda")
            k_20, k_1000 = torch.full_like(k_off, 20), torch.full_like(k_off, 1000)
            if kind == "peaked":
                report(f"greedy B={num_rows}", size, {
                    label(c): lambda i, c=c: greedy(logits[i], out, config=c) for c in greedy_configs} | {
                    "torch argmax": lambda i: torch.argmax(logits[i], dim=-1)}, copies)
                report(f"temperature B={num_rows}", size, {
                    label(c): lambda i, c=c: sample(logits[i], temperature, uniform, out=out, config=c)
                    for c in drawn_configs} | {
                    "torch softmax": lambda i: torch.softmax(logits[i], dim=-1, dtype=torch.float32)}, copies)
            for name, k, p, floor in (("top_p 0.95", k_off, ones * 0.95, zeros), ("top_k 20", k_20, ones, zeros),
                                      ("top_k 20 top_p 0.95", k_20, ones * 0.95, zeros),
                                      ("top_k 1000 top_p 0.9 min_p 0.01", k_1000, ones * 0.9, zeros + 0.01)):
                report(f"{name} {kind} B={num_rows}", size, {
                    label(c): lambda i, c=c, k=k, p=p, f=floor:
                        sample(logits[i], temperature, uniform, k, p, f, out, config=c)
                    for c in drawn_configs}, copies)
            del logits
    logits = [make_logits(8, "normal", torch.float32) for _ in range(2)]
    ones, uniform = torch.ones(8, device="cuda"), torch.rand(8, device="cuda")
    k_off, share, zeros = torch.zeros(8, dtype=torch.int64, device="cuda"), ones * 0.95, ones * 0
    report("float32 top_p 0.95 B=8", 8 * VOCAB * 4, {
        "": lambda i: sample(logits[i], ones, uniform, k_off, share, zeros)}, 2)
    if options.json:
        options.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "us": record}, indent=1))


if __name__ == "__main__":
    main()
