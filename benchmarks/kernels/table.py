"""Every kernel at the shapes of Qwen3-8B: microseconds, rate, floor, and the share of the floor that is reached.

    PYTHONPATH=. python benchmarks/kernels/table.py [--only decode] [--out benchmarks/results/NAME]      (writes NAME.json and NAME.md)

Each row is the median replay of a captured graph that walks through enough buffers to be cold in L2 where the engine finds them cold
(weights, KV); activations stay in L2, as in a step. Launches overlap as in the engine's graphs (programmatic dependent launch). The floor is the
larger of bytes over read bandwidth and operations over matrix rate, each byte once; launches alone take about 2 us.
"""
# ruff: noqa: B023  (a case is measured before the loop that made it goes on)

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nanopd.kernels.activation import silu_mul
from nanopd.kernels.block_copy import move_blocks
from nanopd.kernels.embedding import embedding
from nanopd.kernels.norm import add_rms_norm
from nanopd.kernels.paged_decode import DecodeWorkspace, paged_decode
from nanopd.kernels.paged_prefill import PrefillWorkspace, paged_prefill
from nanopd.kernels.rope_store import rope_store
from nanopd.kernels.sampling import greedy, sample
from nanopd.kernels.skinny_gemm import skinny_linear, skinny_linear_silu_mul, supports

HIDDEN, INTERMEDIATE, VOCAB, LAYERS, HQ, HK, D, BLOCK = 4096, 12288, 151936, 36, 32, 8, 128, 16
QKV = (HQ + 2 * HK) * D
READ_TB_S, MATRIX_TFLOP_S = 4.19, 788.0  # measured on one H200
COLD_BYTES = 200e6  # three times the L2


@dataclass(frozen=True, slots=True)
class Case:
    """A launch at one shape: ``launch(i)`` uses the i-th of ``copies`` sets of buffers."""

    kernel: str
    shape: str
    launch: Callable[[int], object]
    num_bytes: float
    num_flops: float = 0.0
    copies: int = 1


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def cold_copies(num_bytes: float) -> int:
    return max(1, min(64, round(COLD_BYTES / num_bytes)))


def shuffled_tables(num_seqs: int, context_len: int) -> torch.Tensor:
    width = -(-context_len // BLOCK)
    return torch.randperm(num_seqs * width, device="cuda", dtype=torch.int32).view(num_seqs, width)


def kv_caches(num_blocks: int) -> list[torch.Tensor]:
    return [random(num_blocks, 2, HK, BLOCK, D) for _ in range(cold_copies(num_blocks * 2 * HK * BLOCK * D * 2))]


def decode_attention() -> Iterator[Case]:
    workspace = DecodeWorkspace.allocate(HQ // HK, D, torch.device("cuda"))
    for num_seqs, context_len in ((1, 1024), (8, 4096), (32, 1024), (32, 4096), (256, 1024)):
        tables = shuffled_tables(num_seqs, context_len)
        caches, q = kv_caches(tables.numel()), random(num_seqs, HQ, D)
        lens = torch.full((num_seqs,), context_len, dtype=torch.int32, device="cuda")
        out = torch.empty_like(q)
        yield Case(
            "decode attention",
            f"{num_seqs} x {context_len}",
            lambda i: paged_decode(q, caches[i], tables, lens, out=out, workspace=workspace, pdl=True),
            2 * num_seqs * context_len * HK * D * 2,
            4 * num_seqs * context_len * HQ * D,
            len(caches),
        )


def prefill_attention() -> Iterator[Case]:
    workspace = PrefillWorkspace.allocate(D, torch.device("cuda"))
    for num_new, context_len in ((2048, 2048), (8192, 8192), (2048, 16384)):
        tables = shuffled_tables(1, context_len)
        caches, q = kv_caches(tables.numel()), random(num_new, HQ, D)
        bounds = torch.tensor([0, num_new], dtype=torch.int32, device="cuda")
        lens = torch.tensor([context_len], dtype=torch.int32, device="cuda")
        out = torch.empty_like(q)

        def launch(i: int) -> None:
            paged_prefill(
                q, caches[i], tables, bounds, lens, max_q_len=num_new, max_context_len=context_len,
                scale=D**-0.5, out=out, workspace=workspace, pdl=True,
            )  # fmt: skip

        cached = context_len - num_new
        yield Case(
            "prefill attention",
            f"{num_new} on {cached}" if cached else f"{num_new}",
            launch,
            (2 * context_len * HK + 2 * num_new * HQ) * D * 2,
            4 * HQ * D * (num_new * cached + num_new * (num_new + 1) // 2),
            len(caches),
        )


def elementwise() -> Iterator[Case]:
    norm, head_norm = random(HIDDEN), random(D)
    table, cos_sin = random(VOCAB, HIDDEN), random(16384, D, dtype=torch.float32)
    for num_tokens in (1, 256, 8192):
        x, out = random(num_tokens, HIDDEN), random(num_tokens, HIDDEN)
        stream = random(num_tokens, HIDDEN, dtype=torch.float32)
        yield Case(
            "add + RMSNorm, float32 stream",
            f"{num_tokens}",
            lambda i: add_rms_norm(x, stream, norm, 1e-6, out, pdl=True),
            num_tokens * HIDDEN * (2 + 4 + 4 + 2),
        )
        qkv, kv = random(num_tokens, QKV), random(-(-num_tokens // BLOCK), 2, HK, BLOCK, D)
        slots, q = torch.arange(num_tokens, device="cuda"), random(num_tokens, HQ, D)
        yield Case(
            "q/k norm + rotary + KV store",
            f"{num_tokens}",
            lambda i: rope_store(qkv, slots, cos_sin, kv, slots, HQ, head_norm, head_norm, out=q, pdl=True),
            num_tokens * (2 * QKV * 2 + D * 4),
        )
        wide, mid = random(num_tokens, 2 * INTERMEDIATE), random(num_tokens, INTERMEDIATE)
        yield Case(
            "SiLU-mul",
            f"{num_tokens}",
            lambda i: silu_mul(wide, mid, pdl=True),
            3 * num_tokens * INTERMEDIATE * 2,
        )
        ids = torch.randint(0, VOCAB, (num_tokens,), device="cuda")
        yield Case(
            "embedding",
            f"{num_tokens}",
            lambda i: embedding(ids, table, out, pdl=True),
            2 * num_tokens * HIDDEN * 2,
        )


def few_row_products() -> Iterator[Case]:
    shapes = (("qkv", QKV, HIDDEN), ("o", HIDDEN, HIDDEN), ("down", HIDDEN, INTERMEDIATE), ("head", VOCAB, HIDDEN))
    for m in (1, 8, 32, 64, 128):
        for name, n, k in (*shapes, ("gate-up + SiLU-mul", 2 * INTERMEDIATE, HIDDEN)):
            x = random(m, k)
            if not supports(m, n, k, x.device):
                continue
            weights = [random(n, k) for _ in range(cold_copies(n * k * 2))]
            is_gated = name.startswith("gate")
            multiply = skinny_linear_silu_mul if is_gated else skinny_linear
            out_dtype = torch.float32 if name == "head" else x.dtype
            out = random(m, n // 2 if is_gated else n, dtype=out_dtype)
            yield Case(
                f"linear, {name}",
                f"{m} x {k} x {n}",
                lambda i: multiply(x, weights[i], out=out, pdl=True),
                n * k * 2 + m * k * 2 + out.numel() * out.element_size(),
                2 * m * n * k,
                len(weights),
            )


def sampling() -> Iterator[Case]:
    for num_rows in (1, 32, 256):
        num_bytes = num_rows * VOCAB * 4
        logits = [random(num_rows, VOCAB, dtype=torch.float32) * 2 for _ in range(min(cold_copies(num_bytes), 8))]
        for row in logits:
            row += 12 * (torch.rand_like(row) < 2e-4)  # a few candidates over a wide floor
        ones, out = torch.ones(num_rows, device="cuda"), torch.empty(num_rows, dtype=torch.int64, device="cuda")
        uniform, top_k = torch.rand(num_rows, device="cuda"), torch.full_like(out, 20)
        cuts = (top_k, ones * 0.95, ones * 0)
        arms: dict[str, Callable[[int], object]] = {
            "greedy": lambda i: greedy(logits[i], out, pdl=True),
            "temperature": lambda i: sample(logits[i], ones * 0.6, uniform, out=out, pdl=True),
            "top-k 20, top-p 0.95": lambda i: sample(logits[i], ones, uniform, *cuts, out, pdl=True),
        }
        for name, launch in arms.items():
            yield Case(f"sampling, {name}", f"{num_rows} x {VOCAB}", launch, num_bytes, 0.0, len(logits))


def block_copies() -> Iterator[Case]:
    pool = random(LAYERS, 2048, 2, HK, BLOCK, D)
    piece = 2 * HK * BLOCK * D * 2
    for count in (1, 64, 1024):
        order = torch.randperm(2048, device="cuda", dtype=torch.int32)
        source, target = order[:count].contiguous(), order[count : 2 * count].contiguous()
        yield Case(
            "block copy, all layers",
            f"{count} blocks",
            lambda i: move_blocks(pool, source, pool, target),
            2 * count * piece * LAYERS,
        )


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "decode": decode_attention,
    "prefill": prefill_attention,
    "elementwise": elementwise,
    "linear": few_row_products,
    "sampling": sampling,
    "copies": block_copies,
}


def graph_us(case: Case, replays: int = 7) -> float:
    """Median microseconds of one launch within a captured graph of many."""
    num_launches = max(16, case.copies)
    for i in range(min(3, case.copies)):
        case.launch(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(num_launches):
            case.launch(i % case.copies)
    graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / num_launches)
    return statistics.median(times)


def measure(groups: tuple[str, ...] = tuple(GROUPS)) -> list[dict]:
    """One row a kernel and shape. ``floor_us``: what bytes or operations allow; ``share``: of the floor that is reached.

    Needs a CUDA device. A case that fails is a row with ``error`` instead of figures.
    """
    torch.manual_seed(0)
    rows: list[dict] = []
    for group in groups:
        for case in GROUPS[group]():
            row: dict = {"kernel": case.kernel, "shape": case.shape}
            bytes_us, flops_us = case.num_bytes / READ_TB_S / 1e6, case.num_flops / MATRIX_TFLOP_S / 1e6
            try:
                us = graph_us(case)
            except Exception as error:  # one kernel must not hide the others
                rows.append(row | {"error": f"{type(error).__name__}: {str(error)[:200]}"})
                continue
            floor = max(bytes_us, flops_us)
            rate = (
                {"gb_s": case.num_bytes / us / 1e3} if bytes_us >= flops_us else {"tflop_s": case.num_flops / us / 1e6}
            )
            rows.append(row | {"us": us, **rate, "floor_us": floor, "share": floor / us})
        torch.cuda.empty_cache()
    return rows


def markdown(rows: list[dict]) -> str:
    lines = ["| kernel | shape | us | rate | floor, us | share of floor |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['kernel']} | {row['shape']} | {row['error']} | | | |")
            continue
        rate = f"{row['gb_s']:.0f} GB/s" if "gb_s" in row else f"{row['tflop_s']:.0f} TFLOP/s"
        cells = (row["kernel"], row["shape"], f"{row['us']:.1f}", rate, f"{row['floor_us']:.1f}", f"{row['share']:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(GROUPS), help="one group of kernels")
    parser.add_argument("--out", type=Path, help="a record's path without suffix")
    options = parser.parse_args()
    rows = measure((options.only,) if options.only else tuple(GROUPS))
    device = torch.cuda.get_device_name()
    print(markdown(rows))
    if options.out:
        ceilings = {"read_tb_s": READ_TB_S, "matrix_tflop_s": MATRIX_TFLOP_S}
        record = {"device": device, "torch": torch.__version__, "ceilings": ceilings, "rows": rows}
        options.out.with_suffix(".json").write_text(json.dumps(record, indent=1))
        title = f"# Kernels of Qwen3-8B on one {device}\n\n`python benchmarks/kernels/table.py`; floors at {READ_TB_S} TB/s and "
        options.out.with_suffix(".md").write_text(f"{title}{MATRIX_TFLOP_S:.0f} TFLOP/s.\n\n{markdown(rows)}\n")


if __name__ == "__main__":
    main()
