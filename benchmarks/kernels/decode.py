"""Paged decode attention beside FlashAttention-3, in one run: microseconds, GB/s, ratio.

    PYTHONPATH=. python benchmarks/kernels/decode.py [--sweep] [--json FILE]

FlashAttention-3 is taken from an installed or unpacked vLLM when there is one. Shapes are Qwen3-8B's (32 query and 8
kv heads of 128, bf16), block size 16, shuffled blocks. Each arm is a captured graph that walks through enough KV caches
to be cold in L2; the figure is the median of several replays.
"""

import argparse
import json
import os
import statistics
import sys
import types

import torch

from nanopd.kernels.paged_decode import DecodeConfig, DecodeWorkspace, paged_decode

HQ, HK, D, BLOCK = 32, 8, 128, 16
SHAPES = (
    (1, 1024), (1, 8192), (1, 32768), (8, 1024), (8, 4096), (16, 4096), (32, 1024), (32, 4096), (64, 1024), (64, 4096),
    (128, 1024), (128, 4096), (256, 1024),
)  # fmt: skip
READ_TB_S = 4.19  # measured read bandwidth of one H200
COLD_BYTES = 200e6  # walk through at least so much before coming back: three times the L2


def flash_attention_3():
    """(flash_attn_varlen_func, get_scheduler_metadata) of vLLM, without importing the rest of it; None if absent."""
    folders = [folder for folder in sys.path if os.path.isdir(os.path.join(folder, "vllm", "vllm_flash_attn"))]
    if not folders:
        return None
    package, platforms = types.ModuleType("vllm"), types.ModuleType("vllm.platforms")
    package.__path__ = [os.path.join(folders[0], "vllm")]
    major, minor = torch.cuda.get_device_capability()
    capability = major * 10 + minor
    platforms.current_platform = types.SimpleNamespace(
        is_rocm=lambda: False,
        is_cuda=lambda: True,
        get_device_capability=lambda *_: types.SimpleNamespace(major=major, minor=minor),
        is_device_capability=lambda c, *_: c in (capability, (major, minor)),
        is_device_capability_family=lambda c, *_: c // 10 == major,
        has_device_capability=lambda c, *_: capability >= (c if isinstance(c, int) else c[0] * 10 + c[1]),
    )
    sys.modules.update({"vllm": package, "vllm.platforms": platforms})
    from vllm.vllm_flash_attn import flash_attn_varlen_func, get_scheduler_metadata

    return flash_attn_varlen_func, get_scheduler_metadata


def graph_us(launch, num_launches, replays=7):
    """Median microseconds of one ``launch(i)`` within a captured graph of ``num_launches`` of them."""
    for i in range(3):
        launch(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(num_launches):
            launch(i)
    graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / num_launches)
    return statistics.median(times)


class Shape:
    """One batch: query, block tables, and enough caches to stay cold."""

    def __init__(self, num_seqs, context_len):
        self.num_seqs, self.context_len = num_seqs, context_len
        blocks = num_seqs * context_len // BLOCK
        self.num_bytes = blocks * 2 * HK * BLOCK * D * 2
        self.num_caches = max(2, -(-int(COLD_BYTES) // self.num_bytes))
        cache = torch.randn(blocks, 2, HK, BLOCK, D, device="cuda", dtype=torch.bfloat16)
        self.caches = [cache.clone() for _ in range(self.num_caches)]
        self.tables = torch.randperm(blocks, device="cuda", dtype=torch.int32).view(num_seqs, -1)
        self.lens = torch.full((num_seqs,), context_len, dtype=torch.int32, device="cuda")
        self.q = torch.randn(num_seqs, HQ, D, device="cuda", dtype=torch.bfloat16)
        self.out = torch.empty_like(self.q)
        self.num_launches = max(20, self.num_caches)

    def ours(self, pdl=False, config=None):
        workspace = DecodeWorkspace.allocate(HQ // HK, D, self.q.device, config.ctas_per_sm if config else 1)

        def launch(i):
            kv = self.caches[i % self.num_caches]
            paged_decode(self.q, kv, self.tables, self.lens, out=self.out, workspace=workspace, pdl=pdl, config=config)

        return graph_us(launch, self.num_launches)

    def peer(self, flash):
        attend, metadata = flash
        batch = self.num_seqs
        # The peer's layout: K and V apart, tokens before heads. Same bytes; views of the same memory.
        caches = [cache.view(2, -1, BLOCK, HK, D) for cache in self.caches]
        cu = torch.arange(batch + 1, device="cuda", dtype=torch.int32)
        plan = metadata(
            batch_size=batch, max_seqlen_q=1, max_seqlen_k=self.context_len, num_heads_q=HQ, num_heads_kv=HK, headdim=D,
            cache_seqlens=self.lens, qkv_dtype=torch.bfloat16, cu_seqlens_q=cu, page_size=BLOCK, causal=True,
        )  # fmt: skip

        def launch(i):
            k, v = caches[i % self.num_caches]
            attend(
                q=self.q, k=k, v=v, out=self.out, cu_seqlens_q=cu, max_seqlen_q=1, seqused_k=self.lens,
                max_seqlen_k=self.context_len, causal=True, block_table=self.tables, fa_version=3,
                scheduler_metadata=plan,
            )  # fmt: skip

        return graph_us(launch, self.num_launches)


def compare(flash):
    rows = []
    print("  B context    floor     FA3    ours  +PDL us   ours GB/s   FA3/ours  FA3/+PDL")
    for num_seqs, context_len in SHAPES:
        shape = Shape(num_seqs, context_len)
        floor = shape.num_bytes / READ_TB_S / 1e6
        ours, pdl = shape.ours(), shape.ours(pdl=True)
        peer = shape.peer(flash) if flash else float("nan")
        rows.append(dict(B=num_seqs, context=context_len, floor_us=floor, fa3_us=peer, ours_us=ours, ours_pdl_us=pdl))
        print(
            f"{num_seqs:3d} {context_len:7d} {floor:8.1f} {peer:7.1f} {ours:7.1f} {pdl:7.1f}"
            f" {shape.num_bytes / ours / 1e3:11.0f} {peer / ours:10.2f} {peer / pdl:9.2f}",
            flush=True,
        )
        del shape
    return rows


SWEEP = tuple(DecodeConfig(32, 4, 3, min_tiles=n) for n in (1, 2, 4, 8)) + (
    DecodeConfig(16, 4, 6), DecodeConfig(16, 8, 3), DecodeConfig(32, 6, 2), DecodeConfig(32, 4, 2),
)  # fmt: skip


def sweep():
    print("tile warps stages ctas min | " + " ".join(f"{b}x{c}" for b, c in SHAPES))
    results = {config: [] for config in SWEEP}
    for num_seqs, context_len in SHAPES:
        shape = Shape(num_seqs, context_len)
        for config in SWEEP:
            try:
                results[config].append(f"{shape.ours(config=config):.1f}/{shape.ours(pdl=True, config=config):.1f}")
            except Exception as error:  # a shape that does not fit must not hide the others
                results[config].append(type(error).__name__)
        del shape
    for config, times in results.items():
        print(*(getattr(config, name) for name in DecodeConfig.__slots__), "|", *times, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="time other kernel shapes too")
    parser.add_argument("--json", help="write the rows here")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    rows = compare(flash_attention_3())
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    if options.sweep:
        sweep()


if __name__ == "__main__":
    main()
