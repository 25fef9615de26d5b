"""Real workers around the scripted executor: engine, hand-off, messages and processes' loop as in production, the model a hash of the KV it reads.

A hand-off that moves the wrong bytes, too late or to the wrong place changes the tokens.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch

from nanopd.batch import Batch, SampleSpec
from nanopd.block_manager import BlockManager
from nanopd.clock import Clock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine, StepHandle
from nanopd.engine.scripted import ScriptedExecutor, scripted_token
from nanopd.kv_transfer.checksum import checksum_blocks
from nanopd.kv_transfer.loopback import LoopbackHub
from nanopd.kv_transfer.transport import KvSender
from nanopd.messages import Hello
from nanopd.request import Request
from nanopd.scheduler import Scheduler, stream_key, uniform
from nanopd.workers.options import WorkerOptions
from nanopd.workers.process import Parts
from nanopd.workers.worker import Worker

BLOCK_SIZE = 4
MAX_MODEL_LEN = 200
VOCAB_SIZE = 97


class SlowExecutor(ScriptedExecutor):
    """Takes ``step_s`` per step, so that tests can strike in the middle."""

    step_s = 0.0

    def submit(self, batch: Batch) -> StepHandle:
        time.sleep(self.step_s)
        return super().submit(batch)


@dataclass
class ScriptedWorkers:
    """Builds workers that can reach one another. ``built`` holds the latest life of each."""

    num_blocks: int = 64
    chunk_size: int = 6
    pipeline_depth: int = 1
    step_s: float = 0.0
    wrap_sender: Callable[[KvSender], KvSender] = lambda sender: sender
    verify: bool = False
    hub: LoopbackHub = field(default_factory=LoopbackHub)
    built: dict[str, Worker] = field(default_factory=dict)
    pools: dict[str, torch.Tensor] = field(default_factory=dict)
    fails: dict[str, list[Exception]] = field(default_factory=dict)  # by worker: raised at its next starts

    def build(self, options: WorkerOptions, clock: Clock) -> Parts:
        """``BuildParts`` for the in-process launcher."""
        worker_id = options.worker_id
        if self.fails.get(worker_id):
            raise self.fails[worker_id].pop(0)
        executor = SlowExecutor(self.num_blocks, BLOCK_SIZE, VOCAB_SIZE)
        executor.step_s = self.step_s
        pool = torch.frombuffer(executor.memory, dtype=torch.uint8).view(1, self.num_blocks, 2, 1, BLOCK_SIZE, 2)
        endpoint = self.hub.endpoint(f"{worker_id}/{options.incarnation}")
        config = SchedulerConfig(prefill_chunk_size=self.chunk_size, max_num_batched_tokens=32)
        engine = Engine(
            Scheduler(config, BlockManager(self.num_blocks, BLOCK_SIZE), MAX_MODEL_LEN),
            executor,
            clock,
            self.pipeline_depth,
        )

        def checksum(block_ids: Sequence[int]) -> int:
            return checksum_blocks(pool, block_ids)

        worker = Worker(
            engine,
            self.wrap_sender(endpoint.sender(pool)),
            clock,
            block_size=BLOCK_SIZE,
            push_timeout_s=options.push_timeout_s,
            checksum=checksum if self.verify else None,
        )
        handle = asdict(endpoint.export(pool))
        self.built[worker_id], self.pools[worker_id] = worker, pool
        hello = Hello(
            worker_id, options.incarnation, os.getpid(), self.num_blocks, BLOCK_SIZE, MAX_MODEL_LEN, 8, handle
        )
        return Parts(worker, hello, endpoint.close)


def expected_tokens(request: Request) -> list[int]:
    """What any correct cluster answers to a request with seed and max_tokens set."""
    params = request.sampling
    output: list[int] = []
    for _ in range(params.max_tokens or 0):
        context = [*request.prompt_token_ids, *output]
        number = 0.0 if params.seed is None else uniform(stream_key(params.seed), len(context))
        spec = SampleSpec(params, number, request.prompt_token_ids, output)
        output.append(scripted_token(context, spec, VOCAB_SIZE))
        if output[-1] in request.stop_ids:
            break
    return output
