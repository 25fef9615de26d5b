"""RMSNorm, add + RMSNorm, SiLU-mul and embedding: microseconds and TB/s beside their byte floors, Qwen3-8B widths, bf16.

    PYTHONPATH=. python benchmarks/kernels/elementwise.py [--sweep] [--json FILE]

A CUDA graph of 24 launches over rotating buffers (more than the L2 holds where tokens are many), median of seven replays.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from nanopd.kernels.activation import silu_mul
from nanopd.kernels.embedding import embedding
from nanopd.kernels.norm import add_rms_norm, rms_norm

HIDDEN, INTERMEDIATE, VOCAB = 4096, 12288, 151936
LAUNCHES = 24


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def microseconds(launch: Callable[[int], object], copies: int) -> float:
    """``launch(i)`` uses buffer set i."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, dict[str, float]] = {}

    def report(name: str, num_bytes: int, arms: dict[str, Callable[[int], object]], copies: int) -> None:
        record[name] = {arm: microseconds(launch, copies) for arm, launch in arms.items()}
        print(f"{name}: " + ", ".join(f"{arm} {us:.2f} us ({num_bytes / us / 1e6:.2f} TB/s)"
                                      for arm, us in record[name].items()), flush=True)

    weight = random(HIDDEN)
    table = random(VOCAB, HIDDEN)
    for tokens in (1, 8, 64, 256, 2048, 8192):
        copies = max(1, min(8, int(200e6 / (tokens * HIDDEN * 4))))
        shapes = [(512, 1), (256, 2), (128, 4)] if options.sweep else [None]
        x, out = [random(tokens, HIDDEN) for _ in range(copies)], [random(tokens, HIDDEN) for _ in range(copies)]
        residual = [random(tokens, HIDDEN) for _ in range(copies)]
        size = tokens * HIDDEN * 2
        report(f"rms_norm T={tokens}", 2 * size, {
            f"{shape or ''}{' pdl' if pdl else ''}":
                lambda i, s=shape, p=pdl: rms_norm(x[i], weight, 1e-6, out[i], pdl=p, shape=s)
            for shape in shapes for pdl in (False, True)} | {
            "torch": lambda i: torch.nn.functional.rms_norm(x[i], (HIDDEN,), weight, 1e-6)}, copies)
        report(f"add_rms_norm T={tokens}", 4 * size, {
            f"{shape or ''}{' pdl' if pdl else ''}":
                lambda i, s=shape, p=pdl: add_rms_norm(x[i], residual[i], weight, 1e-6, out[i], pdl=p, shape=s)
            for shape in shapes for pdl in (False, True)}, copies)
        copies = max(1, min(8, int(200e6 / (tokens * INTERMEDIATE * 6))))
        wide = [random(tokens, 2 * INTERMEDIATE) for _ in range(copies)]
        mid = [random(tokens, INTERMEDIATE) for _ in range(copies)]
        shapes = [(256, 1), (256, 2), (128, 2), (128, 1), (512, 1)] if options.sweep else [None]
        report(f"silu_mul T={tokens}", 6 * tokens * INTERMEDIATE, {
            f"{shape or ''}{' pdl' if pdl else ''}": lambda i, s=shape, p=pdl: silu_mul(wide[i], mid[i], pdl=p, shape=s)
            for shape in shapes for pdl in (False, True)}, copies)
        ids = [torch.randint(0, VOCAB, (tokens,), device="cuda") for _ in out]
        report(f"embedding T={tokens}", 2 * size, {"": lambda i: embedding(ids[i], table, out[i])}, len(out))
    if options.json:
        options.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "us": record}, indent=1))


if __name__ == "__main__":
    main()
