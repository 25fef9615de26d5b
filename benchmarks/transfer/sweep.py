"""Every way to copy scattered blocks from one GPU into the pool of another: the numbers behind ``peer_to_peer``.

    python -m benchmarks.transfer.sweep --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

Two GPUs, one process, Qwen3-8B's blocks: 36 layers, pieces of 64 KiB. Per variant and size: GB/s by the device's clock and by the wall's (from the
call to the event behind it), the last copy compared bit for bit; and what pushes one after another take from a chain of matrix products beside
them on the sending GPU: milliseconds lost per millisecond of pushing.
"""

import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import torch

from benchmarks.transfer.ways import (
    BLOCK_SIZE,
    LAYERS,
    PIECE_BYTES,
    RECEIVER,
    SENDER,
    Ids,
    Pools,
    Variant,
    all_variants,
    make_pools,
)
from nanopd.bench.environment import describe_environment

ROUNDS, WARM_UPS = 7, 2


def rate(variant: Variant, pools: Pools, num_tokens: int, compared: bool) -> dict[str, Any]:
    num_blocks, device = num_tokens // BLOCK_SIZE, variant.stream.device
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    walls, busy = [], []
    source_ids, target_ids = Ids(), Ids()
    pools.tensors[1].zero_()
    torch.cuda.synchronize(RECEIVER)
    for i in range(ROUNDS + WARM_UPS):
        rng = random.Random(i)
        source_ids, target_ids = (rng.sample(range(pools.source.num_blocks), num_blocks) for _ in range(2))
        with torch.cuda.device(device):
            began = time.perf_counter()
            started.record(variant.stream)
            variant.issue(source_ids, target_ids)
            ended.record(variant.stream)
            while not ended.query():
                pass
            walls.append((time.perf_counter() - began) * 1e3)
        busy.append(started.elapsed_time(ended))
    num_bytes = num_blocks * LAYERS * PIECE_BYTES
    wall_ms, busy_ms = median(walls[WARM_UPS:]), median(busy[WARM_UPS:])
    row = {
        "tokens": num_tokens,
        "wall_ms": round(wall_ms, 4),
        "busy_ms": round(busy_ms, 4),
        "gb_s": round(num_bytes / wall_ms / 1e6, 1),
        "gb_s_busy": round(num_bytes / busy_ms / 1e6, 1),
    }
    if compared:
        row["is_exact"] = all(
            torch.equal(
                pools.tensors[0][layer, source_ids].to(RECEIVER),
                pools.tensors[1][layer, target_ids],
            )
            for layer in range(0, LAYERS, 5)
        )
    return row


class Products:
    """The matrix products of a 512-token step of Qwen3-8B, half its layers."""

    def __init__(self) -> None:
        sizes = ((6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288))
        self._weights = [torch.randn(out, into, device=SENDER).bfloat16() for out, into in sizes]
        self._inputs = {into: torch.randn(512, into, device=SENDER).bfloat16() for _, into in sizes}
        self._stream = torch.cuda.Stream(SENDER)
        self.alone_ms = median(self.beside(lambda: None) for _ in range(5))

    def beside(self, issue: Callable[[], None]) -> float:
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(SENDER)
        with torch.cuda.device(SENDER), torch.cuda.stream(self._stream):
            torch.cuda._sleep(20_000_000)  # about 10 ms: everything is queued when it begins
            started.record()
        self._gate = started
        issue()
        with torch.cuda.device(SENDER), torch.cuda.stream(self._stream):
            for _ in range(18):
                for weight in self._weights:
                    torch.nn.functional.linear(self._inputs[weight.shape[1]], weight)
            ended.record()
        torch.cuda.synchronize(SENDER)
        return started.elapsed_time(ended)

    def cost(self, variant: Variant, num_blocks: int) -> dict[str, Any]:
        """Pushes of 512 tokens one after another, begun with the products."""
        rng = random.Random(7)
        ids = [rng.sample(range(num_blocks), 32) for _ in range(2)]

        def issue() -> None:
            variant.stream.wait_event(self._gate)
            for _ in range(16):
                variant.issue(ids[0], ids[1])

        times, busy = [], []
        for _ in range(4):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

            def timed(first: torch.cuda.Event = first, last: torch.cuda.Event = last) -> None:
                variant.stream.wait_event(self._gate)
                first.record(variant.stream)
                issue()
                last.record(variant.stream)

            times.append(self.beside(timed))
            torch.cuda.synchronize(SENDER)
            busy.append(first.elapsed_time(last))
        beside_ms, busy_ms = median(times[1:]), median(busy[1:])
        return {
            "products_ms": round(self.alone_ms, 3),
            "beside_ms": round(beside_ms, 3),
            "pushing_ms": round(busy_ms, 3),
            "lost": round((beside_ms - self.alone_ms) / busy_ms, 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-blocks", type=int, default=2048, help="of each pool (%(default)s)")
    parser.add_argument("--pushes", default="16,1024,8192")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--no-products", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes = [int(word) for word in args.pushes.split(",")]
    pools = make_pools(args.num_blocks)
    products = None if args.no_products else Products()
    variants = all_variants(pools)
    rows = []
    for variant in variants:
        if args.only not in variant.name:
            continue
        try:
            compared = not variant.name.startswith("contiguous")
            row: dict[str, Any] = {"variant": variant.name, "rates": [rate(variant, pools, n, compared) for n in sizes]}
            if products is not None and variant.side:
                row |= products.cost(variant, args.num_blocks)
        except (AssertionError, RuntimeError) as error:
            row = {"variant": variant.name, "failed": f"{type(error).__name__}: {error}"}
        rows.append(row)
        rates = "  ".join(
            f"{r['wall_ms']:.3f} {r['gb_s']:5.0f}/{r['gb_s_busy']:3.0f}{'' if r.get('is_exact', True) else ' WRONG'}"
            for r in row.get("rates", ())
        )
        print(f"{variant.name:44s} {rates}  lost {row.get('lost', '-')} {row.get('failed', '')}", flush=True)
        if args.out is not None:
            write(args.out, args.num_blocks, rows)


def write(out: Path, num_blocks: int, rows: list[dict[str, Any]]) -> None:
    environment = msgspec.to_builtins(describe_environment())
    environment["command"] = shlex.join(["python", "-m", "benchmarks.transfer.sweep", *sys.argv[1:]])
    document = {"environment": environment, "num_blocks": num_blocks, "rows": rows}
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    sizes = [rate["tokens"] for rate in rows[0].get("rates", ())]
    lines = [
        f"# Ways to copy scattered blocks between two GPUs, {environment['date'][:10]}",
        "",
        f"{', '.join(environment['gpus'])}, torch {environment['versions'].get('torch')}, commit {environment['commit']}; "
        f"`{environment['command']}`. Medians. Method: `benchmarks/transfer/sweep.py`.",
        "",
        f"| variant | {' | '.join(f'{n} tokens, ms | GB/s | GB/s on the device' for n in sizes)} | lost | equal |",
        "|" + " --- |" * (3 * len(sizes) + 3),
    ]
    for row in rows:
        cells = [row["variant"]]
        for rate in row.get("rates", ()):
            cells += [str(rate[name]) for name in ("wall_ms", "gb_s", "gb_s_busy")]
        equal = {rate.get("is_exact") for rate in row.get("rates", ())}
        cells += [str(row.get("lost", "")), row.get("failed", "") or ("" if equal == {None} else str(equal == {True}))]
        lines.append(f"| {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
