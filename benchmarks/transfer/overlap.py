"""What a push leaves exposed of a prefill, and what it costs it: the production worker in this process, the pool it pushes into in another."""

import gzip
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from benchmarks.transfer.setting import DTYPE, Note, Setting, random_prompt, sender_over
from nanopd.block_manager import BlockManager
from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.engine import Engine
from nanopd.kv_transfer.select import open_endpoint
from nanopd.messages import FromWorker, KvPushed, Leg, LegEnded, PeerPool, Prefill, RunLocal
from nanopd.model_runner import ModelRunner
from nanopd.profiler.pool_process import PoolProcess
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.workers.background import BackgroundExecutor, WatchfulExecutor
from nanopd.workers.process import PUSH_POLL_S, wake_promptly
from nanopd.workers.wall_clock import WallClock
from nanopd.workers.worker import Worker

_WARM_UPS = 3


class PrefillBench:
    """A prefill worker as in production, its messages written and read here."""

    def __init__(self, setting: Setting, peer: PoolProcess) -> None:
        longest = max(setting.prompts)
        self._setting = setting
        self._num_blocks = longest // setting.block_size + 64
        config = EngineConfig(
            setting.model,
            dtype=DTYPE,
            device=setting.devices[0],
            load_format=setting.load_format,
            max_model_len=longest + setting.block_size,
            cuda_graphs=setting.cuda_graphs,
            cache=CacheConfig(num_blocks=self._num_blocks, enable_prefix_cache=False),
            scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=max(setting.chunks)),
        )
        self._endpoint = open_endpoint("prefill", setting.devices[0])
        self._runner = ModelRunner.load(config, allocate_kv=self._endpoint.allocate)
        self._endpoint.export(self._runner.kv_cache.pool)
        self._background = BackgroundExecutor(self._runner) if setting.on_cpu else None
        self._peer = peer
        self._random = random.Random(0)
        self._count = 0

    def open(self, transport: str, chunk: int) -> None:
        """A worker that pushes over ``transport`` and prefills ``chunk`` tokens a step."""
        self._sender = sender_over(self._endpoint, self._runner.kv_cache.pool, transport)
        executor = WatchfulExecutor(self._background or self._runner)
        block_size = self._setting.block_size
        config = SchedulerConfig(
            max_num_seqs=8, max_num_batched_tokens=max(self._setting.chunks), prefill_chunk_size=chunk
        )
        scheduler = Scheduler(
            config, BlockManager(self._num_blocks, block_size, False), max(self._setting.prompts) + block_size
        )
        engine = Engine(scheduler, executor, WallClock(), 1 if self._setting.on_cpu else 2)
        self._worker = Worker(engine, self._sender, WallClock(), block_size=block_size, push_timeout_s=30.0)
        executor.watch(self._meanwhile)
        self._worker.handle(PeerPool("decode", 0, asdict(self._peer.handle)))

    def serve(self, num_tokens: int, is_pushed: bool) -> tuple[float, float]:
        """Prefill and exposed milliseconds of one prompt."""
        self._count += 1
        leg = Leg(f"r{self._count}", 0)
        prompt = random_prompt(self._random, self._runner.model_config.vocab_size, num_tokens)
        params = SamplingParams(max_tokens=8 if is_pushed else 1, temperature=0.0, ignore_eos=True)
        request = Request(leg.request_id, prompt, params)
        if is_pushed:
            num_blocks = -(-num_tokens // self._setting.block_size)
            ids = tuple(self._random.sample(range(self._peer.handle.num_blocks), num_blocks))
            self._worker.handle(Prefill(leg, request, "decode", 0, ids, 0))
        else:
            self._worker.handle(RunLocal(leg, request))
        exposed_ms = 0.0
        while True:
            if not self._worker.has_work:
                time.sleep(PUSH_POLL_S)
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
        if self._background is not None:
            self._background.close()
        self._endpoint.close()

    def _said(self) -> list[FromWorker]:
        outbox, self._worker.outbox = self._worker.outbox, []
        return outbox

    def _meanwhile(self) -> bool:
        if self._worker.is_pushing:
            time.sleep(PUSH_POLL_S)
            self._worker.look_at_pushes()
        return self._worker.is_pushing


def measure_overlap(setting: Setting, peer: PoolProcess, note: Note, trace: Path | None) -> None:
    """The best transport with every chunk size, the others with the first. ``trace``: where the trace of one prefill goes, on a GPU."""
    wake_promptly()
    best, *others = setting.transports
    bench = PrefillBench(setting, peer)
    for transport, chunk in (
        *((best, chunk) for chunk in setting.chunks),
        *((name, setting.chunks[0]) for name in others),
    ):
        bench.open(transport, chunk)
        for i in range(2 * _WARM_UPS):
            bench.serve(setting.prompts[0], i % 2 == 0)
        for num_tokens in setting.prompts:
            compare(bench, num_tokens, setting.rounds_of(num_tokens), note, {"transport": transport, "chunk": chunk})
        bench.shut()
    if trace is not None and not setting.on_cpu:
        bench.open(best, setting.chunks[0])
        write_trace(bench, setting.prompts[len(setting.prompts) // 2], trace)
        bench.shut()
    bench.close()


def compare(bench: PrefillBench, num_tokens: int, rounds: int, note: Note, names: dict[str, object]) -> None:
    """Prefills with and without a push in turn, medians."""
    pushed, alone, exposed = list[float](), list[float](), list[float]()
    for i in range(rounds):
        for is_pushed in (True, False) if i % 2 else (False, True):
            prefill_ms, exposed_ms = bench.serve(num_tokens, is_pushed)
            (pushed if is_pushed else alone).append(round(prefill_ms, 3))
            if is_pushed:
                exposed.append(round(exposed_ms, 4))
    prefill_ms, beside_ms, exposed_ms = median(alone), median(pushed), median(exposed)
    note(
        what="overlap",
        **names,
        tokens=num_tokens,
        prefill_ms=round(prefill_ms, 2),
        prefill_beside_push_ms=round(beside_ms, 2),
        slowdown_percent=round(100 * (beside_ms / prefill_ms - 1), 1),
        exposed_ms=round(exposed_ms, 2),
        exposed_percent=round(100 * exposed_ms / prefill_ms, 1),
    )
    note(what="raw", of=f"overlap {names} {num_tokens}", alone_ms=alone, pushed_ms=pushed, exposed_ms=exposed)


def write_trace(bench: PrefillBench, num_tokens: int, path: Path) -> None:
    """One prefill with its pushes: kernels and copies by stream, for https://ui.perfetto.dev."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        bench.serve(num_tokens, True)
        torch.cuda.synchronize()
    raw = path.with_suffix(".trace.json")
    profiler.export_chrome_trace(str(raw))
    events = json.loads(raw.read_text())["traceEvents"]
    raw.unlink()
    kept = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") or e.get("ph") == "M"]
    for event in kept:
        if event.get("ph") != "M":
            event.pop("args", None)
    with gzip.open(path.with_suffix(".trace.json.gz"), "wt") as file:
        json.dump({"traceEvents": kept}, file, separators=(",", ":"))
