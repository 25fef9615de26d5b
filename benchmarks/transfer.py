"""KV between two workers on GPUs: rates of both transports, what overlap leaves over, TTFT of both paths. Qwen3-8B shapes, bf16.

    python benchmarks/transfer.py --devices 0,0 --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

``--devices`` sender,receiver; the same one twice measures two processes on one GPU, where the "link" is that GPU's own memory.

rates     Scattered 16-token blocks from this process to the pool of another: time from push to the fence seen by ``poll`` (wall) and as the transport
          reports it, median of several pushes of newly drawn block ids, every size compared bit for bit once; plain copies over PCIe for comparison.
overlap   The production worker (engine, hand-off, sender) prefills prompts and pushes chunk by chunk into the other process's pool; in between, like
          prompts without a push. Exposed: from the first token's arrival on the host to the fence. A trace of one such prefill is kept (Perfetto).
ttft      A cluster of one prefill and one decode worker, processes, requests one at a time, from the client's clock: disaggregated beside collocated.
"""

import argparse
import asyncio
import gzip
import json
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, ClusterConfig, EngineConfig, SchedulerConfig, Topology
from nanopd.engine import Engine
from nanopd.kv_transfer import relay_wire
from nanopd.kv_transfer.cuda_endpoint import TRANSPORTS, CudaEndpoint
from nanopd.kv_transfer.transport import KvSender, PoolHandle
from nanopd.messages import FromWorker, KvPushed, Leg, LegEnded, PeerPool, Prefill, RunLocal
from nanopd.model_runner import ModelRunner
from nanopd.profiler.pool_process import PoolProcess, digest, fill
from nanopd.request import Request, SamplingParams, Strategy
from nanopd.runtime.controller import Controller
from nanopd.scheduler import Scheduler
from nanopd.workers.background import WatchfulExecutor
from nanopd.workers.wall_clock import WallClock
from nanopd.workers.worker import Worker

MODEL = str(Path(__file__).parent / "models" / "qwen3-8b")
L, K, S, D = 36, 8, 16, 128
BLOCK_BYTES = L * 2 * K * S * D * 2
RATE_TOKENS = (16, 128, 1024, 4096, 8192, 16384)
NUM_BLOCKS = 2 * RATE_TOKENS[-1] // S  # of the pools between which rates are measured
RELAY_VARIANTS = ((4, 16), (6, 16), (10, 16), (6, 32), (12, 8))  # slots, MiB each
PROMPTS = (1024, 4096, 16384)
TTFT_PROMPTS = (1024, 2048, 4096, 8192, 16384)
CHUNKS = (512, 2048)
OVERLAPS = (*((TRANSPORTS[0], chunk) for chunk in CHUNKS), (TRANSPORTS[1], CHUNKS[0]))
TRACED_PROMPT = 4096

Note = Callable[..., None]


def shape_of(num_blocks: int) -> tuple[int, ...]:
    return (L, num_blocks, 2, K, S, D)


def measure_rates(devices: list[str], peer: PoolProcess, note: Note, num_rounds: int) -> None:
    """Both transports, all sizes; the relay with other slots, and from one end to the other inside this process, too."""
    endpoint = CudaEndpoint("bench", devices[0])
    pool = endpoint.allocate(NUM_BLOCKS * BLOCK_BYTES).view(torch.bfloat16).view(shape_of(NUM_BLOCKS))
    endpoint.export(pool)
    fill(pool, 1)
    for transport in TRANSPORTS:
        endpoint.transports = (transport,)
        sender = endpoint.sender(pool)
        for num_tokens in RATE_TOKENS:
            source_ids, target_ids = _rate(sender, peer.handle, num_tokens, num_rounds, note, transport=transport)
            note(
                what="exact",
                transport=transport,
                num_tokens=num_tokens,
                is_exact=digest(pool, source_ids) == peer.ask("digest", ids=target_ids),
            )
        sender.close()
    for num_slots, mib in RELAY_VARIANTS:
        with patch.multiple(relay_wire, NUM_SLOTS=num_slots, SLOT_BYTES=mib << 20):
            sender = endpoint.sender(pool)
        for num_tokens in (1024, 8192):
            _rate(sender, peer.handle, num_tokens, num_rounds // 2, note, transport=f"relay {num_slots} x {mib} MiB")
        sender.close()
    here = CudaEndpoint("here", devices[1])
    target = here.allocate(NUM_BLOCKS // 2 * BLOCK_BYTES).view(torch.bfloat16).view(shape_of(NUM_BLOCKS // 2))
    handle = here.export(target)
    sender = endpoint.sender(pool)
    for num_tokens in (1024, 8192):
        _rate(sender, handle, num_tokens, num_rounds // 2, note, transport="relay in one process")
    sender.close()
    here.close()
    endpoint.close()


def _rate(
    sender: KvSender, handle: PoolHandle, num_tokens: int, num_rounds: int, note: Note, transport: str
) -> tuple[list[int], list[int]]:
    """Notes a median; returns the ids of the last push."""
    walls, busy = [], []
    nap_s = 0.0 if transport == TRANSPORTS[0] else 5e-5  # the relay's thread needs the interpreter
    source_ids = target_ids = list[int]()
    for i in range(num_rounds + 2):
        rng = random.Random(i)
        source_ids = rng.sample(range(NUM_BLOCKS), num_tokens // S)
        target_ids = rng.sample(range(handle.num_blocks), num_tokens // S)
        began = time.perf_counter()
        sender.push("p", handle, source_ids, target_ids)
        while not (results := sender.poll()):
            if nap_s:
                time.sleep(nap_s)
        walls.append((time.perf_counter() - began) * 1e3)
        busy.append(results[0].transfer_ms)
        assert results[0].error is None, results[0].error
    num_bytes = num_tokens // S * BLOCK_BYTES
    wall_ms = median(walls[2:])
    note(
        what="rate",
        transport=transport,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        wall_ms=round(wall_ms, 4),
        transport_ms=round(median(busy[2:]), 4),
        gb_s=round(num_bytes / wall_ms / 1e6, 1),
        gb_s_transport=round(num_bytes / median(busy[2:]) / 1e6, 1),
    )
    return source_ids, target_ids


def measure_pcie(device: str, note: Note, num_bytes: int = 256 << 20) -> None:
    """What plain copies of large pinned buffers reach, each way alone and both at once: the relay's ceiling."""
    pairs = []
    for _ in range(2):
        host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        pairs.append((host, torch.empty(num_bytes, dtype=torch.uint8, device=device)))
    (host_a, device_a), (host_b, device_b) = pairs
    down, up = (host_a, device_a), (device_b, host_b)
    streams = [torch.cuda.Stream(device) for _ in range(2)]
    for what, copies in (("to host", [down]), ("to device", [up]), ("both at once", [down, up])) * 2:
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(4):
            for stream, (target, source) in zip(streams, copies, strict=False):
                with torch.cuda.stream(stream):
                    target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        gb_s = 4 * num_bytes / (time.perf_counter() - began) / 1e9
        note(what="pcie", direction=what, gb_s_each_way=round(gb_s, 1))


class PrefillBench:
    """A prefill worker as in production, its messages written and read here."""

    def __init__(self, device: str, peer: PoolProcess) -> None:
        num_blocks = PROMPTS[-1] // S + 64
        config = EngineConfig(
            MODEL,
            dtype="bfloat16",
            device=device,
            load_format="dummy",
            max_model_len=PROMPTS[-1] + S,
            cuda_graphs=False,
            cache=CacheConfig(num_blocks=num_blocks, enable_prefix_cache=False),
            scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=max(CHUNKS)),
        )
        self._endpoint = CudaEndpoint("prefill", device)
        self._runner = ModelRunner.load(config, allocate_kv=self._endpoint.allocate)
        self._endpoint.export(self._runner.kv_cache.pool)
        self._peer = peer
        self._num_blocks = num_blocks
        self._random = random.Random(0)
        self._count = 0

    def open(self, transport: str, chunk: int) -> None:
        """A worker that pushes over ``transport`` and prefills ``chunk`` tokens a step."""
        self._endpoint.transports = (transport,)
        self._sender = self._endpoint.sender(self._runner.kv_cache.pool)
        executor = WatchfulExecutor(self._runner)
        config = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=max(CHUNKS), prefill_chunk_size=chunk)
        scheduler = Scheduler(config, BlockManager(self._num_blocks, S, False), PROMPTS[-1] + S)
        engine = Engine(scheduler, executor, WallClock(), 2)
        self._worker = Worker(engine, self._sender, WallClock(), block_size=S, push_timeout_s=30.0)
        executor.watch(self._meanwhile)
        self._worker.handle(PeerPool("decode", 0, asdict(self._peer.handle)))

    def serve(self, num_tokens: int, is_pushed: bool) -> tuple[float, float]:
        """Prefill and exposed milliseconds of one prompt."""
        self._count += 1
        leg = Leg(f"r{self._count}", 0)
        prompt = tuple(self._random.randrange(1000, 150_000) for _ in range(num_tokens))
        request = Request(
            leg.request_id, prompt, SamplingParams(max_tokens=8 if is_pushed else 1, temperature=0.0, ignore_eos=True)
        )
        if is_pushed:
            ids = tuple(self._random.sample(range(self._num_blocks), -(-num_tokens // S)))
            self._worker.handle(Prefill(leg, request, "decode", 0, ids, 0))
        else:
            self._worker.handle(RunLocal(leg, request))
        exposed_ms = 0.0
        while True:
            if not self._worker.has_work:
                time.sleep(0.0001)
            self._worker.step()
            for message in self._said():
                if isinstance(message, KvPushed):
                    exposed_ms = message.exposed_ms
                if isinstance(message, LegEnded):
                    assert message.error is None, message.error
                    return message.times.prefill_ms, exposed_ms

    def shut(self) -> None:
        self._sender.close()

    def close(self) -> None:
        self._endpoint.close()

    def _said(self) -> list[FromWorker]:
        outbox, self._worker.outbox = self._worker.outbox, []
        return outbox

    def _meanwhile(self) -> bool:
        if self._worker.is_pushing:
            time.sleep(0.0001)
            self._worker.look_at_pushes()
        return self._worker.is_pushing


def measure_overlap(device: str, peer: PoolProcess, note: Note, num_rounds: int, trace: Path | None) -> None:
    bench = PrefillBench(device, peer)
    for transport, chunk in OVERLAPS:
        bench.open(transport, chunk)
        bench.serve(PROMPTS[0], True), bench.serve(PROMPTS[0], False)
        for num_tokens in PROMPTS:
            pushed, alone, exposed = [], [], []
            for _ in range(num_rounds):
                prefill_ms, exposed_ms = bench.serve(num_tokens, True)
                pushed.append(prefill_ms), exposed.append(exposed_ms)
                alone.append(bench.serve(num_tokens, False)[0])
            note(
                what="overlap",
                transport=transport,
                chunk=chunk,
                num_tokens=num_tokens,
                prefill_ms=round(median(alone), 2),
                prefill_beside_push_ms=round(median(pushed), 2),
                exposed_ms=round(median(exposed), 3),
                exposed_share=round(median(exposed) / median(alone), 4),
                slowdown=round(median(pushed) / median(alone) - 1, 4),
            )
        bench.shut()
    if trace is not None:
        bench.open(*OVERLAPS[0])
        write_trace(bench, trace)
        bench.shut()
    bench.close()


def write_trace(bench: PrefillBench, path: Path) -> None:
    """One prefill with its pushes: kernels and copies by stream, for https://ui.perfetto.dev."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        bench.serve(TRACED_PROMPT, True)
        torch.cuda.synchronize()
    raw = path.with_suffix(".trace.json")
    profiler.export_chrome_trace(str(raw))
    events = json.loads(raw.read_text())["traceEvents"]
    raw.unlink()
    kept = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") or e.get("ph") == "M"]
    for event in kept:
        event.get("args", {}).clear() if event.get("ph") != "M" else None
    with gzip.open(path.with_suffix(".trace.json.gz"), "wt") as file:
        json.dump({"traceEvents": kept}, file, separators=(",", ":"))


def measure_ttft(devices: list[str], note: Note, num_rounds: int) -> None:
    """``--devices 0,0``: both workers on one GPU, each with half of its memory."""
    engine = EngineConfig(
        MODEL,
        dtype="bfloat16",
        device="cuda" if devices[0] != devices[1] else devices[0],
        load_format="dummy",
        max_model_len=TTFT_PROMPTS[-1] + 64,
        scheduler=SchedulerConfig(max_num_seqs=8),
        cache=CacheConfig(enable_prefix_cache=False, memory_fraction=0.9),
    )
    cluster = ClusterConfig(topology=Topology.parse("1P+1D"), startup_timeout_s=150.0)
    asyncio.run(_serve_in_turn(Controller(engine, cluster), note, num_rounds))


async def _serve_in_turn(controller: Controller, note: Note, num_rounds: int) -> None:
    rng = random.Random(0)
    began = time.perf_counter()
    await controller.start()
    note(what="startup", seconds=round(time.perf_counter() - began, 1))
    paths = (Strategy.DISAGGREGATED, Strategy.COLLOCATED)
    for num_tokens in TTFT_PROMPTS:
        times: dict[str, list[list[float]]] = {path: [] for path in paths}
        for i in range(num_rounds + 1):
            for path in paths:
                prompt = tuple(rng.randrange(1000, 150_000) for _ in range(num_tokens))
                params = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
                request = Request(f"{path}-{num_tokens}-{i}", prompt, params, strategy=path)
                sent, stamps = time.perf_counter(), []
                stream = controller.submit(request)
                async for _ in stream:
                    stamps.append((time.perf_counter() - sent) * 1e3)
                assert stream.finish is not None and stream.finish.report is not None, stream.finish
                assert stream.finish.error is None, stream.finish.error
                report = stream.finish.report
                assert report.decision.chosen.path == path.value and report.num_attempts == 1
                if i:
                    times[path].append([stamps[0], stamps[1] - stamps[0], report.transfer_exposed_ms])
        pushed, alone = ([median(column) for column in zip(*times[path], strict=True)] for path in paths)
        note(
            what="ttft",
            num_tokens=num_tokens,
            disaggregated_ms=round(pushed[0], 2),
            collocated_ms=round(alone[0], 2),
            ratio=round(pushed[0] / alone[0], 4),
            disaggregated_second_token_ms=round(pushed[1], 2),
            collocated_second_token_ms=round(alone[1], 2),
            exposed_ms=round(pushed[2], 3),
        )
    await controller.stop()


def to_markdown(record: dict[str, Any]) -> str:
    rows = record["rows"]
    lines = [
        f"# KV transfer, {record['gpu']}, devices {record['devices']}, {record['date']}",
        "",
        f"`{record['command']}` at {record['commit']}, torch {record['torch']}. Method: the docstring of `benchmarks/transfer.py`.",
        *(["", "Both processes share one GPU: the link is its own memory, the relay goes over its PCIe link in both directions at once."]
          if len(set(record["devices"].split(","))) == 1 else []),
    ]  # fmt: skip
    tables = {
        "rate": (
            "Scattered 16-token blocks from one process to another",
            "transport num_tokens wall_ms gb_s transport_ms gb_s_transport",
        ),
        "pcie": ("Plain copies of large pinned buffers", "direction gb_s_each_way"),
        "overlap": (
            "Prefill beside its push",
            "transport chunk num_tokens prefill_ms prefill_beside_push_ms slowdown exposed_ms exposed_share",
        ),
        "ttft": (
            "Time to first token, client's clock, idle system",
            "num_tokens disaggregated_ms collocated_ms ratio disaggregated_second_token_ms collocated_second_token_ms exposed_ms",
        ),
    }  # fmt: skip
    for what, (title, columns) in tables.items():
        found = [row for row in rows if row["what"] == what]
        if found:
            names = columns.split()
            lines += ["", f"## {title}", "", f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
            lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in found]
        if what == "rate" and (compared := [row["is_exact"] for row in rows if row["what"] == "exact"]):
            lines += ["", f"Compared bit for bit: {len(compared)} pushes of both transports, {sum(compared)} equal."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="0,0", help="sender,receiver")
    parser.add_argument("--parts", default="rates,overlap,ttft")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    devices = [f"cuda:{index}" for index in args.devices.split(",")]
    rows: list[dict[str, Any]] = []

    def note(**row: Any) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if args.out is not None:  # after every row: what was measured is not lost with what follows
            write(args, rows)

    parts = args.parts.split(",")
    if "rates" in parts or "overlap" in parts:
        with PoolProcess(shape_of(NUM_BLOCKS), devices[1]) as peer:
            if "rates" in parts:
                measure_pcie(devices[0], note)
                measure_rates(devices, peer, note, args.rounds)
            if "overlap" in parts:
                measure_overlap(devices[0], peer, note, max(3, args.rounds // 2), args.out)
    if "ttft" in parts:
        measure_ttft(devices, note, max(3, args.rounds // 2))


def write(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "devices": args.devices,
        "torch": torch.__version__,
        "commit": commit.strip(),
        "command": shlex.join(["python", *sys.argv]),
        "rows": rows,
    }
    args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(to_markdown(record))


if __name__ == "__main__":
    main()
