"""Paged prefill attention beside FlashAttention-3 and cuDNN: microseconds and TFLOP/s, 32/8 heads of 128, bf16.

    PYTHONPATH=. python benchmarks/kernels/prefill.py [--paths sm90,generic] [--json FILE]

FlashAttention-3 runs when vllm.vllm_flash_attn can be imported, on the same shuffled blocks. Every arm is timed as a
CUDA graph of several launches over rotating inputs; figures are medians of seven replays, the arms taking turns.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nanopd.kernels.paged_prefill import PrefillWorkspace, paged_prefill

H, K, D = 32, 8, 128

# name: (q_len, context_len) of each sequence
WORKLOADS: dict[str, tuple[tuple[int, int], ...]] = {
    "512": ((512, 512),),
    "1024": ((1024, 1024),),
    "2048": ((2048, 2048),),
    "8192": ((8192, 8192),),
    "2048 on 14336": ((2048, 16384),),
    "512 on 7680": ((512, 8192),),
    "100 on 8092": ((100, 8192),),
    "16 on 32752": ((16, 32768),),
    "8 x 1024": ((1024, 1024),) * 8,
    "ragged": ((3000, 3000), (1500, 4000), (700, 700), (512, 9000), (300, 300), (100, 2000), (64, 64), (16, 1000)),
    "32 decodes + 1024": ((1024, 1024), *((1, 2048),) * 32),
}


def num_flops(lengths: tuple[tuple[int, int], ...]) -> int:
    """Of the visible (query, key) pairs only."""
    return sum(4 * H * D * (q * context - q * (q - 1) // 2) for q, context in lengths)


@dataclass
class Workload:
    lengths: tuple[tuple[int, int], ...]
    block_size: int
    copies: int

    def __post_init__(self) -> None:
        device = "cuda"
        q_lens, context_lens = zip(*self.lengths, strict=True)
        widths = [-(-length // self.block_size) for length in context_lens]
        self.num_blocks, self.max_q_len, self.max_context_len = sum(widths), max(q_lens), max(context_lens)
        self.q = [torch.randn(sum(q_lens), H, D, device=device, dtype=torch.bfloat16) for _ in range(self.copies)]
        self.kv = [
            torch.randn(self.num_blocks, 2, K, self.block_size, D, device=device, dtype=torch.bfloat16)
            for _ in range(self.copies)
        ]
        self.out = torch.empty_like(self.q[0])
        order = torch.randperm(self.num_blocks, device=device, dtype=torch.int32).split(widths)
        self.block_tables = torch.zeros(len(widths), max(widths), device=device, dtype=torch.int32)
        for row, blocks in zip(self.block_tables, order, strict=True):
            row[: len(blocks)] = blocks
        self.cu_q_lens = torch.tensor([0, *q_lens], device=device).cumsum(0).int()
        self.context_lens = torch.tensor(context_lens, device=device, dtype=torch.int32)


Arm = Callable[[int], object]


def ours(work: Workload, path: str) -> Arm:
    workspace = PrefillWorkspace.allocate(D, torch.device("cuda"))

    def launch(copy: int) -> None:
        paged_prefill(
            work.q[copy],
            work.kv[copy],
            work.block_tables,
            work.cu_q_lens,
            work.context_lens,
            max_q_len=work.max_q_len,
            max_context_len=work.max_context_len,
            scale=D**-0.5,
            out=work.out,
            workspace=workspace,
            pdl=path == "sm90",
            path=path,  # type: ignore[arg-type]
        )

    return launch


def flash_attention_3(work: Workload) -> Arm | None:
    try:
        from vllm.vllm_flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    caches = [tuple(x.transpose(1, 2).contiguous() for x in kv.unbind(1)) for kv in work.kv]

    def launch(copy: int) -> None:
        flash_attn_varlen_func(
            q=work.q[copy],
            k=caches[copy][0],
            v=caches[copy][1],
            out=work.out,
            cu_seqlens_q=work.cu_q_lens,
            max_seqlen_q=work.max_q_len,
            seqused_k=work.context_lens,
            max_seqlen_k=work.max_context_len,
            causal=True,
            block_table=work.block_tables,
            fa_version=3,
        )

    return launch


def cudnn(work: Workload) -> Arm | None:
    """Contiguous K and V, one sequence, nothing cached: what cuDNN can do without paging."""
    if len(work.lengths) > 1 or work.lengths[0][0] != work.lengths[0][1]:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = [x.transpose(0, 1)[None].contiguous() for x in work.q]
    k, v = (torch.randn(1, K, work.max_context_len, D, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def launch(copy: int) -> None:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            torch.nn.functional.scaled_dot_product_attention(q[copy], k, v, is_causal=True, enable_gqa=True)

    return launch


def capture(arm: Arm, copies: int, launches: int) -> torch.cuda.CUDAGraph:
    for copy in range(copies):
        arm(copy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            arm(i % copies)
    graph.replay()
    torch.cuda.synchronize()
    return graph


def microseconds(graphs: dict[str, torch.cuda.CUDAGraph], launches: int, rounds: int = 7) -> dict[str, float]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end) * 1e3 / launches)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", default="sm90,generic")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--only", default="", help="comma-separated workload names")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    records = []
    for name, lengths in WORKLOADS.items():
        if options.only and name not in options.only.split(","):
            continue
        launches = max(3, min(20, int(2e12 // num_flops(lengths))))
        work = Workload(lengths, options.block_size, copies=2)
        arms = {path: ours(work, path) for path in options.paths.split(",")}
        arms |= {label: arm for label, arm in (("fa3", flash_attention_3(work)), ("cudnn", cudnn(work))) if arm}
        graphs = {}
        for label, arm in arms.items():
            try:
                graphs[label] = capture(arm, work.copies, launches)
            except Exception as error:  # a peer may refuse a shape; the others still count
                print(f"{name}: {label} failed: {error}")
        times = microseconds(graphs, launches)
        records.append({"workload": name, "lengths": lengths, "us": times})
        rates = [f"{label} {us:8.1f} us {num_flops(lengths) / us / 1e6:6.1f} TFLOP/s" for label, us in times.items()]
        print(f"{name:20s} " + " | ".join(rates), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "records": records}, indent=1))


if __name__ == "__main__":
    main()
