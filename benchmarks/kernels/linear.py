"""All linear layers of one step of Qwen3-8B: the skinny GEMM beside cuBLAS, and cuBLAS's own variants for many tokens.

    PYTHONPATH=. python benchmarks/kernels/linear.py [--rows 1,2,4,8] [--shapes [--sweep]] [--large] [--json FILE]

36 layers of distinct weights (13.9 GB) and the head in one CUDA graph, so that caches hold nothing from the step before.
Every figure is the median of seven replays; the arms take turns.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from nanopd.kernels.activation import silu_mul
from nanopd.kernels.norm import add_rms_norm
from nanopd.kernels.skinny_gemm import (
    MAX_ROWS,
    GemmConfig,
    skinny_linear,
    skinny_linear_silu_mul,
    supports,
)
from nanopd.kernels.stream_gemm import StreamConfig

HIDDEN, INTERMEDIATE, QKV, VOCAB, LAYERS = 4096, 12288, 6144, 151936, 36
EPS = 1e-6


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


class Step:
    """The weights, and the chains of launches that read each of them once."""

    def __init__(self, num_layers: int = LAYERS) -> None:
        self.layers = [
            (
                random(QKV, HIDDEN),
                random(HIDDEN, HIDDEN),
                random(2 * INTERMEDIATE, HIDDEN),
                random(HIDDEN, INTERMEDIATE),
            )
            for _ in range(num_layers)
        ]
        self.head = random(VOCAB, HIDDEN)
        self.norm = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
        self.num_bytes = 2 * sum(w.numel() for layer in self.layers for w in layer) + 2 * self.head.numel()

    def buffers(self, m: int) -> None:
        self.x, self.attended = random(m, HIDDEN), random(m, HIDDEN)
        self.stream = torch.zeros(m, HIDDEN, device="cuda")
        self.qkv, self.wide, self.mid = random(m, QKV), random(m, 2 * INTERMEDIATE), random(m, INTERMEDIATE)
        self.y, self.logits = random(m, HIDDEN), random(m, VOCAB)

    def cublas(self) -> None:
        for qkv, o, gate_up, down in self.layers:
            torch.mm(self.x, qkv.T, out=self.qkv)
            torch.mm(self.attended, o.T, out=self.y)
            torch.mm(self.x, gate_up.T, out=self.wide)
            torch.mm(self.mid, down.T, out=self.y)
        torch.mm(self.x, self.head.T, out=self.logits)

    def skinny(self, config: GemmConfig | StreamConfig | None, pdl: bool) -> None:
        options = {"pdl": pdl, "config": config}
        for qkv, o, gate_up, down in self.layers:
            skinny_linear(self.x, qkv, out=self.qkv, **options)
            skinny_linear(self.attended, o, out=self.y, **options)
            skinny_linear(self.x, gate_up, out=self.wide, **options)
            skinny_linear(self.mid, down, out=self.y, **options)
        self.skinny_head(options)

    def skinny_head(self, options: dict) -> None:
        if supports(self.x.shape[0], VOCAB, HIDDEN, self.x.device):
            skinny_linear(self.x, self.head, out=self.logits, **options)
        else:
            torch.mm(self.x, self.head.T, out=self.logits)

    # The same with the norms and activations of the step (attention apart), which is where launches add up.
    def cublas_with_norms(self) -> None:
        for qkv, o, gate_up, down in self.layers:
            add_rms_norm(self.y, self.stream, self.norm, EPS, self.x)
            torch.mm(self.x, qkv.T, out=self.qkv)
            torch.mm(self.attended, o.T, out=self.y)
            add_rms_norm(self.y, self.stream, self.norm, EPS, self.x)
            torch.mm(self.x, gate_up.T, out=self.wide)
            silu_mul(self.wide, self.mid)
            torch.mm(self.mid, down.T, out=self.y)
        torch.mm(self.x, self.head.T, out=self.logits)

    def skinny_with_norms(self, config: GemmConfig | StreamConfig | None, pdl: bool) -> None:
        options = {"pdl": pdl, "config": config}
        for qkv, o, gate_up, down in self.layers:
            add_rms_norm(self.y, self.stream, self.norm, EPS, self.x, pdl=pdl)
            skinny_linear(self.x, qkv, out=self.qkv, **options)
            skinny_linear(self.attended, o, out=self.y, **options)
            add_rms_norm(self.y, self.stream, self.norm, EPS, self.x, pdl=pdl)
            skinny_linear_silu_mul(self.x, gate_up, out=self.mid, **options)
            skinny_linear(self.mid, down, out=self.y, **options)
        self.skinny_head(options)


def capture(launch: Callable[[], None]) -> torch.cuda.CUDAGraph:
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def elapsed_ms(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def race(arms: dict[str, Callable[[], None]], rounds: int = 7) -> dict[str, float]:
    """Median milliseconds of each arm; an arm that fails says so and drops out."""
    graphs = {}
    for name, launch in arms.items():
        try:
            graphs[name] = capture(launch)
        except Exception as error:
            print(f"    {name}: {type(error).__name__}: {str(error)[:300]}")
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            times[name].append(elapsed_ms(graph))
    return {name: statistics.median(samples) for name, samples in times.items()}


def sweep_configs(m: int) -> dict[str, GemmConfig | StreamConfig | None]:
    """mma: slab of K x stages; stream: rows x splits, the best fit of each linear if 0; t: trigger stages."""
    configs: dict[str, GemmConfig | StreamConfig | None] = {"default": None}
    if m <= 16:
        configs |= {f"mma {s} t{t}": GemmConfig(4096, s, t) for s, t in ((8, 8), (10, 4), (10, 8), (10, 16))}
    if m > 1:
        configs |= {
            f"stream {r}x{n} t{t}": StreamConfig(r, n, t)
            for r, n, t in (
                (192, 1, 4),
                (160, 4, 4),
                (128, 2, 4),
                (96, 2, 4),
                (64, 2, 4),
                (64, 1, 4),
                (64, 2, 0),
                (64, 2, 99),
            )
        }
    return configs


def few_rows(step: Step, rows: list[int]) -> dict[str, dict[str, float]]:
    results = {}
    for m in rows:
        step.buffers(m)
        arms: dict[str, Callable[[], None]] = {"cublas": step.cublas, "cublas+norms": step.cublas_with_norms}
        if m <= MAX_ROWS:
            arms["skinny, no pdl"] = lambda: step.skinny(None, pdl=False)
            arms["skinny+norms, no pdl"] = lambda: step.skinny_with_norms(None, pdl=False)
            arms["skinny"] = lambda: step.skinny(None, pdl=True)
            arms["skinny+norms"] = lambda: step.skinny_with_norms(None, pdl=True)
        results[str(m)] = race(arms)
        print(f"M={m}: " + "; ".join(f"{name} {ms:.3f}" for name, ms in results[str(m)].items()), flush=True)
    return results


SHAPES = (
    ("qkv", QKV, HIDDEN),
    ("o", HIDDEN, HIDDEN),
    ("gate_up", 2 * INTERMEDIATE, HIDDEN),
    ("down", HIDDEN, INTERMEDIATE),
)


def one_linear(m: int, n: int, k: int, sweep: bool) -> tuple[dict[str, Callable[[], None]], int]:
    """Arms that go through rotating weights, and how many there are."""
    weights = [random(n, k) for _ in range(max(2, int(2e9 / (n * k * 2))))]
    x, out = random(m, k), random(m, n)

    def cublas() -> None:
        for w in weights:
            torch.mm(x, w.T, out=out)

    def skinny(config: GemmConfig | StreamConfig | None) -> None:
        for w in weights:
            skinny_linear(x, w, out=out, pdl=True, config=config)

    configs = sweep_configs(m) if sweep else {"default": None}
    return {"cublas": cublas} | {name: partial(skinny, config) for name, config in configs.items()}, len(weights)


def each_shape(rows: list[int], sweep: bool) -> dict[str, dict[str, float]]:
    """Microseconds of one linear, back to back over rotating weights, under PDL."""
    results = {}
    for name, n, k in (*SHAPES, ("head", VOCAB, HIDDEN)):
        for m in rows:
            arms, num_weights = one_linear(m, n, k, sweep)
            times = {arm: ms * 1e3 / num_weights for arm, ms in race(arms).items()}
            results[f"{name} M={m}"] = times
            cells = [f"{arm} {us:.2f} us {n * k * 2 / us / 1e6:.2f} TB/s" for arm, us in times.items()]
            print(f"{name} M={m}: {', '.join(cells)}", flush=True)
    return results


def large_arms(m: int, n: int, k: int) -> tuple[dict[str, torch.cuda.CUDAGraph], int]:
    """cuBLAS as torch calls it, by library and by entry, and in chunks of rows; captured, because the library is global."""
    weights = [random(n, k) for _ in range(4)]
    x, out, bias = random(m, k), random(m, n), random(n)

    def mm() -> None:
        for w in weights:
            torch.mm(x, w.T, out=out)

    def linear() -> None:
        for w in weights:
            F.linear(x, w)

    def addmm() -> None:
        for w in weights:
            torch.addmm(bias, x, w.T, out=out)

    def chunked(rows: int) -> None:
        for w in weights:
            for part, result in zip(x.split(rows), out.split(rows), strict=True):
                torch.mm(part, w.T, out=result)

    graphs = {}
    for library in ("cublas", "cublaslt"):
        torch.backends.cuda.preferred_blas_library(library)
        for launch in (mm, linear, addmm):
            graphs[f"{library} {launch.__name__}"] = capture(launch)
    torch.backends.cuda.preferred_blas_library("default")
    for rows in (1024, 2048, 4096):
        if rows < m:
            graphs[f"chunks of {rows}"] = capture(partial(chunked, rows))
    return graphs, len(weights)


def many_rows(rows: list[int]) -> dict[str, dict[str, float]]:
    """cuBLAS for prefill: TFLOP/s by shape and by how it is called."""
    results = {}
    for m in rows:
        total: dict[str, float] = {}
        for name, n, k in SHAPES:
            graphs, num_weights = large_arms(m, n, k)
            samples: dict[str, list[float]] = {arm: [] for arm in graphs}
            for _ in range(5):
                for arm, graph in graphs.items():
                    samples[arm].append(elapsed_ms(graph) / num_weights)
            times = {arm: statistics.median(ms) for arm, ms in samples.items()}
            results[f"{name} M={m}"] = times
            cells = [f"{arm} {2e-9 * m * n * k / ms:.0f}" for arm, ms in times.items()]
            print(f"{name} M={m}, TFLOP/s: {', '.join(cells)}", flush=True)
            for arm, ms in times.items():
                total[arm] = total.get(arm, 0.0) + LAYERS * ms
        print(f"M={m} all layers, ms: {', '.join(f'{arm} {ms:.1f}' for arm, ms in total.items())}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,2,4,8,16,32,64,128")
    parser.add_argument("--sweep", action="store_true", help="with --shapes: several configurations")
    parser.add_argument("--shapes", action="store_true", help="each linear by itself")
    parser.add_argument("--large", action="store_true", help="cuBLAS for many rows, by shape")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = [int(m) for m in options.rows.split(",") if m]
    record: dict[str, object] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    if rows:
        step = Step()
        print(f"{step.num_bytes / 1e9:.2f} GB of weights", flush=True)
        record["step_ms"] = few_rows(step, rows)
        del step
    if options.shapes:
        record["shape_us"] = each_shape([m for m in rows if m <= MAX_ROWS], options.sweep)
    if options.large:
        record["large_ms"] = many_rows([1024, 2048, 8192])
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
