"""A whole decode step of Qwen3-8B from the kernels alone, random weights: what a step costs when the host does nothing.

    PYTHONPATH=. python benchmarks/kernels/step.py [--rows 1,8,32] [--context 1152] [--json FILE]

Embedding, 36 layers (norm, qkv, rotary + store, paged attention, o, norm, gate-up, SiLU-mul, down), norm, head, greedy, in one CUDA
graph under programmatic dependent launch. Arms: linears by cuBLAS and by the skinny GEMM.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch

from nanopd.kernels.activation import silu_mul
from nanopd.kernels.embedding import embedding
from nanopd.kernels.norm import add_rms_norm, rms_norm
from nanopd.kernels.paged_decode import DecodeWorkspace, paged_decode
from nanopd.kernels.rope_store import rope_store
from nanopd.kernels.sampling import greedy
from nanopd.kernels.skinny_gemm import skinny_linear, skinny_linear_silu_mul, supports

HIDDEN, INTERMEDIATE, VOCAB, LAYERS, HQ, HK, D, BLOCK = 4096, 12288, 151936, 36, 32, 8, 128, 16
QKV = (HQ + 2 * HK) * D
EPS = 1e-6


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


class Weights:
    def __init__(self) -> None:
        self.layers = [
            (
                random(QKV, HIDDEN),
                random(HIDDEN, HIDDEN),
                random(2 * INTERMEDIATE, HIDDEN),
                random(HIDDEN, INTERMEDIATE),
            )
            for _ in range(LAYERS)
        ]
        self.table, self.head = random(VOCAB, HIDDEN), random(VOCAB, HIDDEN)
        self.norm = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
        self.head_norm = torch.ones(D, device="cuda", dtype=torch.bfloat16)
        self.cos_sin = torch.randn(8192, D, device="cuda")


class Step:
    def __init__(self, weights: Weights, num_seqs: int, context_len: int) -> None:
        self.w, self.m = weights, num_seqs
        blocks = -(-context_len // BLOCK)
        self.kv = [random(num_seqs * blocks, 2, HK, BLOCK, D) for _ in range(LAYERS)]
        self.tables = torch.randperm(num_seqs * blocks, device="cuda", dtype=torch.int32).view(num_seqs, blocks)
        self.lens = torch.full((num_seqs,), context_len, dtype=torch.int32, device="cuda")
        self.positions = (self.lens - 1).long()
        self.slots = self.tables[:, -1].long() * BLOCK + (context_len - 1) % BLOCK
        self.ids = torch.randint(0, VOCAB, (num_seqs,), device="cuda")
        self.stream = torch.zeros(num_seqs, HIDDEN, device="cuda")
        self.x, self.y = random(num_seqs, HIDDEN), random(num_seqs, HIDDEN)
        self.qkv, self.wide = random(num_seqs, QKV), random(num_seqs, 2 * INTERMEDIATE)
        self.mid = random(num_seqs, INTERMEDIATE)
        self.logits = torch.empty(num_seqs, VOCAB, device="cuda")
        self.q, self.attended = random(num_seqs, HQ, D), random(num_seqs, HQ, D)
        self.workspace = DecodeWorkspace.allocate(HQ // HK, D, self.q.device)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, skinny: bool) -> None:
        if skinny and supports(self.m, *weight.shape, x.device):
            skinny_linear(x, weight, out=out, pdl=True)
        elif out.dtype == torch.float32:
            torch.mm(x, weight.T, out_dtype=torch.float32, out=out)
        else:
            torch.mm(x, weight.T, out=out)

    def attention(self, layer: int) -> None:
        rope_store(
            self.qkv, self.positions, self.w.cos_sin, self.kv[layer], self.slots, HQ, self.w.head_norm, self.w.head_norm,
            EPS, out=self.q, pdl=True,
        )  # fmt: skip
        paged_decode(
            self.q, self.kv[layer], self.tables, self.lens, out=self.attended, workspace=self.workspace, pdl=True
        )

    def run(self, skinny: bool) -> None:
        w = self.w
        embedding(self.ids, w.table, self.stream)
        for i, (qkv, o, gate_up, down) in enumerate(w.layers):
            if i == 0:
                rms_norm(self.stream, w.norm, EPS, self.x, pdl=True)
            else:
                add_rms_norm(self.y, self.stream, w.norm, EPS, self.x, pdl=True)
            self.linear(self.x, qkv, self.qkv, skinny)
            self.attention(i)
            self.linear(self.attended.view(self.m, HIDDEN), o, self.y, skinny)
            add_rms_norm(self.y, self.stream, w.norm, EPS, self.x, pdl=True)
            if skinny and supports(self.m, *gate_up.shape, self.x.device):
                skinny_linear_silu_mul(self.x, gate_up, out=self.mid, pdl=True)
            else:
                torch.mm(self.x, gate_up.T, out=self.wide)
                silu_mul(self.wide, self.mid, pdl=True)
            self.linear(self.mid, down, self.y, skinny)
        add_rms_norm(self.y, self.stream, w.norm, EPS, self.x, pdl=True)
        self.linear(self.x, w.head, self.logits, skinny)
        greedy(self.logits, self.ids, pdl=True)


def capture(launch: partial) -> torch.cuda.CUDAGraph:
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    graph.replay()
    return graph


def elapsed_ms(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,16,32,64,128")
    parser.add_argument("--context", type=int, default=1152)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    weights = Weights()
    record: dict[str, dict[str, float]] = {}
    for rows in [int(m) for m in options.rows.split(",")]:
        step = Step(weights, rows, options.context)
        graphs = {arm: capture(partial(step.run, arm == "skinny")) for arm in ("cublas", "skinny")}
        samples: dict[str, list[float]] = {arm: [] for arm in graphs}
        for _ in range(9):
            for arm, graph in graphs.items():
                samples[arm].append(elapsed_ms(graph))
        record[f"B={rows}"] = {arm: statistics.median(ms) for arm, ms in samples.items()}
        print(f"B={rows}, ms: {', '.join(f'{arm} {ms:.3f}' for arm, ms in record[f'B={rows}'].items())}", flush=True)
        del step, graphs
    if options.json:
        options.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "ms": record}, indent=1))


if __name__ == "__main__":
    main()
