"""The worker program: ``python -m nanopd.workers.process`` with ``WorkerOptions`` as JSON on standard input.

It lives as long as its controller: the kernel kills it when the controller dies. Ctrl-C is the controller's business; SIGTERM ends it cleanly.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import msgspec

from nanopd.block_manager import BlockManager
from nanopd.clock import Clock
from nanopd.engine import Engine
from nanopd.errors import NanoPDError
from nanopd.kv_transfer.transport import KvSender
from nanopd.messages import Failed, Hello, Shutdown
from nanopd.scheduler import Scheduler
from nanopd.tracing import Recorder, TracedSender
from nanopd.workers.background import BackgroundExecutor, WatchfulExecutor
from nanopd.workers.channel import WorkerChannel, identity
from nanopd.workers.heart import Heart
from nanopd.workers.options import WorkerOptions
from nanopd.workers.wall_clock import WallClock
from nanopd.workers.worker import Worker

logger = logging.getLogger(__name__)

PUSH_POLL_S = 0.00005  # between looks at pushes: a fence is noticed that late
_SWITCH_S = 0.0005  # Python's 5 ms would be a long wait for the threads that carry KV
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True, slots=True)
class Parts:
    """A worker that is ready, what it says first, and what ends with it."""

    worker: Worker
    hello: Hello
    close: Callable[[], None]
    watch: Callable[[Callable[[], bool]], None] = lambda meanwhile: None  # see WatchfulExecutor.watch


BuildParts = Callable[[WorkerOptions, Clock], Parts]


def run_worker(options: WorkerOptions, stop: threading.Event, build: BuildParts) -> int:
    """One life of a worker; returns its exit code."""
    clock = WallClock()
    channel = WorkerChannel(options.address, identity(options.worker_id, options.incarnation))
    parts: Parts | None = None
    try:
        parts = build(options, clock)
        channel.send(parts.hello)
        with Heart(options, clock) as heart:
            parts.watch(partial(_look_after_pushes, parts.worker, channel))
            parts.worker.say_now = partial(_send_outbox, parts.worker, channel)
            _loop(parts.worker, channel, heart, stop, options.heartbeat_interval_s)
        return 0
    except Exception as error:
        if not isinstance(error, NanoPDError):
            logger.exception("%s cannot go on", options.worker_id)
        channel.send(Failed(str(error) if isinstance(error, NanoPDError) else f"{type(error).__name__}: {error}"))
        return 1
    finally:
        if parts is not None:
            parts.close()
        channel.close()


def _loop(worker: Worker, channel: WorkerChannel, heart: Heart, stop: threading.Event, idle_s: float) -> None:
    """Inbox, step, outbox; waits for messages only when there is nothing else to do."""
    while not stop.is_set():
        wait_s = 0.0 if worker.has_work else PUSH_POLL_S if worker.is_pushing else idle_s
        for message in channel.receive(wait_s):
            if isinstance(message, Shutdown):
                return
            worker.handle(message)
        worker.step()
        _send_outbox(worker, channel)
        if heart.is_due:  # after the outbox: a leg that is not listed has been reported as ended
            heartbeat = worker.heartbeat()
            channel.send(heartbeat)
            heart.beat(heartbeat.stats)


def _send_outbox(worker: Worker, channel: WorkerChannel) -> None:
    outbox, worker.outbox = worker.outbox, []
    for reply in outbox:
        channel.send(reply)


def _look_after_pushes(worker: Worker, channel: WorkerChannel) -> bool:
    """While a step runs: a fence that is reached now is told now. False when nothing is being pushed."""
    if worker.is_pushing:
        time.sleep(PUSH_POLL_S)
        worker.look_at_pushes()
        _send_outbox(worker, channel)
    return worker.is_pushing


def build_parts(
    options: WorkerOptions, clock: Clock, *, wrap_sender: Callable[[KvSender], KvSender] | None = None
) -> Parts:
    """Loads the model and builds the engine around it. torch is imported here, not before: what can fail fast has failed by now."""
    from nanopd.kv_transfer.checksum import checksum_blocks
    from nanopd.kv_transfer.select import open_endpoint
    from nanopd.model_runner import ModelRunner
    from nanopd.workers.drafter import build_drafter

    config = options.engine
    endpoint = open_endpoint(options.worker_id, config.device, config.transport)
    drafter = build_drafter(config, clock, options.num_workers_on_device)
    runner = ModelRunner.load(
        config, num_workers_on_device=options.num_workers_on_device, allocate_kv=endpoint.allocate
    )
    pool = runner.kv_cache.pool
    sender: KvSender = endpoint.sender(pool)
    recorder = None
    if config.trace_dir is not None:
        recorder = Recorder(options.worker_id, options.incarnation, str(runner.device))
        sender = TracedSender(sender, recorder, clock)
    blocks = BlockManager(pool.shape[1], config.cache.block_size, config.cache.enable_prefix_cache)
    on_cpu = runner.device.type == "cpu"
    background = BackgroundExecutor(runner) if on_cpu else None  # a GPU does its steps in the background anyway
    executor = WatchfulExecutor(background or runner)
    depth = 1 if on_cpu or drafter is not None else 2  # on a GPU the next step is prepared while this one runs
    worker = Worker(
        Engine(Scheduler(config.scheduler, blocks, runner.max_model_len), executor, clock, depth, drafter, recorder),
        wrap_sender(sender) if wrap_sender is not None else sender,
        clock,
        block_size=config.cache.block_size,
        push_timeout_s=options.push_timeout_s,
        checksum=partial(checksum_blocks, pool) if config.verify_transfers else None,
    )
    hello = Hello(
        options.worker_id,
        options.incarnation,
        pid=os.getpid(),
        num_blocks=pool.shape[1],
        block_size=config.cache.block_size,
        max_model_len=runner.max_model_len,
        kv_bytes_per_token=runner.model_config.kv_bytes_per_token(runner.dtype),
        pool=asdict(endpoint.export(pool)),
        device=str(runner.device),
    )

    def close() -> None:
        if background is not None:
            background.close()
        sender.close()
        endpoint.close()
        if recorder is not None and config.trace_dir is not None:
            recorder.write(config.trace_dir)

    return Parts(worker, hello, close, executor.watch)


def wake_promptly() -> None:
    """Short naps end when they should (Linux makes them 50 us longer), and threads get the interpreter soon."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)
    sys.setswitchinterval(_SWITCH_S)


def main() -> int:
    options = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerOptions)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent_pid:  # it died before it could take us with it
        return 1
    wake_promptly()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())
    level = os.environ.get("NANOPD_LOG_LEVEL", "WARNING").upper()
    logging.basicConfig(
        level=level, format=f"%(levelname)s [{options.worker_id}] %(name)s: %(message)s", stream=sys.stderr
    )
    return run_worker(options, stop, build_parts)


if __name__ == "__main__":
    sys.exit(main())
