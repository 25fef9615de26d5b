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
ROTATED_BYTES = 400e6
Arms = dict[str, Callable[[int], object]]
Shapes = tuple[tuple[int, int] | None, ...]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def num_copies(num_bytes: int) -> int:
    return max(1, min(8, int(ROTATED_BYTES / num_bytes)))


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


def name(shape: tuple[int, int] | None, pdl: bool) -> str:
    return f"{'default' if shape is None else f'{shape[0]}x{shape[1]}'}{' pdl' if pdl else ''}"


def norm_arms(tokens: int, copies: int, shapes: Shapes) -> tuple[Arms, Arms]:
    weight = random(HIDDEN)
    x, out, residual = ([random(tokens, HIDDEN) for _ in range(copies)] for _ in range(3))
    alone: Arms = {
        name(shape, pdl): lambda i, s=shape, p=pdl: rms_norm(x[i], weight, 1e-6, out[i], pdl=p, shape=s)
        for shape in shapes
        for pdl in (False, True)
    }
    alone["torch"] = lambda i: torch.nn.functional.rms_norm(x[i], (HIDDEN,), weight, 1e-6)
    added: Arms = {
        name(shape, pdl): lambda i, s=shape, p=pdl: add_rms_norm(
            x[i], residual[i], weight, 1e-6, out[i], pdl=p, shape=s
        )
        for shape in shapes
        for pdl in (False, True)
    }
    return alone, added


def silu_arms(tokens: int, copies: int, shapes: Shapes) -> Arms:
    wide = [random(tokens, 2 * INTERMEDIATE) for _ in range(copies)]
    out = [random(tokens, INTERMEDIATE) for _ in range(copies)]

    def launch(i: int, shape: tuple[int, int] | None, pdl: bool) -> None:
        silu_mul(wide[i], out[i], pdl=pdl, **({"shape": shape} if shape else {}))

    return {name(s, p): lambda i, s=s, p=p: launch(i, s, p) for s in shapes for p in (False, True)}


def embedding_arms(tokens: int, copies: int, table: torch.Tensor) -> Arms:
    ids = [torch.randint(0, VOCAB, (tokens,), device="cuda") for _ in range(copies)]
    out = [random(tokens, HIDDEN) for _ in range(copies)]
    return {name(None, p): lambda i, p=p: embedding(ids[i], table, out[i], pdl=p) for p in (False, True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="several (threads, vectors a thread)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, dict[str, float]] = {}

    def report(title: str, num_bytes: int, arms: Arms, copies: int) -> None:
        record[title] = {arm: microseconds(launch, copies) for arm, launch in arms.items()}
        rates = {arm: num_bytes / us / 1e6 for arm, us in record[title].items()}
        cells = [f"{arm} {us:.2f} us ({rates[arm]:.2f} TB/s)" for arm, us in record[title].items()]
        print(f"{title}: {', '.join(cells)}", flush=True)

    norm_shapes: Shapes = ((512, 1), (256, 2), (128, 4)) if options.sweep else (None,)
    silu_shapes: Shapes = ((128, 1), (128, 2), (256, 1), (256, 2), (512, 1)) if options.sweep else (None,)
    table = random(VOCAB, HIDDEN)
    for tokens in (1, 8, 64, 256, 2048, 8192):
        size = tokens * HIDDEN * 2
        copies = num_copies(2 * size)
        alone, added = norm_arms(tokens, copies, norm_shapes)
        report(f"rms_norm T={tokens}", 2 * size, alone, copies)
        report(f"add_rms_norm T={tokens}", 4 * size, added, copies)
        report(f"embedding T={tokens}", 2 * size, embedding_arms(tokens, copies, table), copies)
        size = 3 * tokens * INTERMEDIATE * 2
        copies = num_copies(size)
        report(f"silu_mul T={tokens}", size, silu_arms(tokens, copies, silu_shapes), copies)
    if options.json:
        options.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "us": record}, indent=1))


if __name__ == "__main__":
    main()
