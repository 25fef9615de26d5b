"""Two engines, prefill here and decode there, KV copied between their memories at any moment, aborts at any moment.

The copy writes straight into the destination's memory while its steps are in flight: a reserved block that one of them may still write shows.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.scripted_oracle import VOCAB_SIZE, sequential

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine
from nanopd.engine.scripted import ScriptedExecutor
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.scheduler import Scheduler

MAX_MODEL_LEN = 40
BLOCK_SIZE = 4
STEP_LIMIT = 500


class Worker:
    """An engine, its memory, and what it said about each leg."""

    def __init__(self, num_blocks: int, depth: int, chunk_size: int) -> None:
        self.num_blocks = num_blocks
        self.executor = ScriptedExecutor(num_blocks, BLOCK_SIZE, VOCAB_SIZE)
        config = SchedulerConfig(4, 24, chunk_size, watermark=0.05)
        self.engine = Engine(
            Scheduler(config, BlockManager(num_blocks, BLOCK_SIZE), MAX_MODEL_LEN), self.executor, VirtualClock(), depth
        )


@dataclass
class Job:
    """One request on its way: the part a worker process and the central scheduler play."""

    request: Request
    tokens: list[int]
    expected: list[int]
    expected_reason: FinishReason
    finish: FinishReason | None = None
    aborted: bool = False
    is_local: bool = False
    destination_ids: tuple[int, ...] | None = None
    num_resident: int = 0
    table: object = None
    computed: int = 0
    pushed: int = 0  # whole blocks, resident ones included
    prefill_open: bool = False
    decode_open: bool = False
    started: bool = False
    ends: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.request.prompt_token_ids)


class TwoWorkers(RuleBasedStateMachine):
    @initialize(
        p_blocks=st.integers(10, 16),
        d_blocks=st.integers(10, 16),
        p_depth=st.integers(1, 2),
        d_depth=st.integers(1, 2),
        chunk=st.sampled_from([1, 3, 8, 24]),
    )
    def build(self, p_blocks: int, d_blocks: int, p_depth: int, d_depth: int, chunk: int) -> None:
        self.prefiller = Worker(p_blocks, p_depth, chunk)
        self.decoder = Worker(d_blocks, d_depth, chunk)
        self.jobs: dict[str, Job] = {}

    # ---- arrivals

    def _job(self, prompt: list[int], max_tokens: int, seed: int, stop: int) -> Job:
        name = f"r{len(self.jobs)}"
        params = SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=seed, stop_token_ids=tuple(range(stop)))
        request = Request(name, tuple([9] * 8 + prompt), params)
        expected, reason = sequential(request, MAX_MODEL_LEN)
        job = self.jobs[name] = Job(request, [], expected, reason)
        return job

    job_shape = {
        "prompt": st.lists(st.integers(0, 1), min_size=1, max_size=10),
        "max_tokens": st.integers(1, 20),
        "seed": st.integers(0, 5),
        "stop": st.sampled_from([0, 0, 10]),
    }

    @rule(**job_shape)
    def hand_off(self, prompt: list[int], max_tokens: int, seed: int, stop: int) -> None:
        job = self._job(prompt, max_tokens, seed, stop)
        job.decode_open = True
        self.decoder.engine.reserve(job.request.request_id, job.request)

    @rule(**job_shape)
    def run_on_decoder(self, prompt: list[int], max_tokens: int, seed: int, stop: int) -> None:
        job = self._job(prompt, max_tokens, seed, stop)
        job.is_local = job.decode_open = True
        self.decoder.engine.run_local(job.request.request_id, job.request)

    @rule(pick=st.integers(0, 100))
    def abort(self, pick: int) -> None:
        live = [job for job in self.jobs.values() if (job.prefill_open or job.decode_open) and not job.aborted]
        if live:
            job = live[pick % len(live)]
            job.aborted = True
            self._abort_legs(job)

    def _abort_legs(self, job: Job) -> None:
        """First the writer, then the reserved blocks: they may be reused only when nobody writes."""
        if job.prefill_open:
            self.prefiller.engine.abort(job.request.request_id)
            self.prefiller.engine.release(job.request.request_id)  # the pushes are cancelled here and now
        elif job.decode_open:
            self.decoder.engine.abort(job.request.request_id)

    # ---- progress

    @rule()
    def step_prefiller(self) -> None:
        if not self.prefiller.engine.has_work:
            return
        report = self.prefiller.engine.step()
        for output in report.outputs:
            job = self.jobs[output.seq_id]
            if not job.aborted:
                assert output.first_index == len(job.tokens) == 0
                job.tokens += output.token_ids
                job.finish = output.finish_reason
                if job.finish is not None:  # complete with the first token: the rest of the hand-off is called off
                    self.prefiller.engine.release(output.seq_id)
                    self._prefill_ended(job)
        for computed in report.computed:
            job = self.jobs[computed.seq_id]
            job.table, job.computed = computed.block_table, computed.end
        for ended in report.ended:
            assert ended.error is None
            self._prefill_ended(self.jobs[ended.seq_id])

    def _prefill_ended(self, job: Job) -> None:
        assert job.prefill_open
        job.prefill_open = False
        if job.aborted or job.finish is not None:
            self.decoder.engine.abort(job.request.request_id)

    @rule(pick=st.integers(0, 100))
    def push_a_block(self, pick: int) -> None:
        jobs = [
            job
            for job in self.jobs.values()
            if job.prefill_open and not job.aborted and self._pushable(job) > job.pushed
        ]
        if jobs:
            job = jobs[pick % len(jobs)]
            source = job.table[job.pushed]
            target = job.destination_ids[job.pushed - job.num_resident // BLOCK_SIZE]
            size = BLOCK_SIZE
            memory = self.prefiller.executor.memory[source * size : (source + 1) * size]
            self.decoder.executor.memory[target * size : (target + 1) * size] = memory
            job.pushed += 1
        self._fence()

    @staticmethod
    def _pushable(job: Job) -> int:
        return -(-job.num_tokens // BLOCK_SIZE) if job.computed == job.num_tokens else job.computed // BLOCK_SIZE

    def _fence(self) -> None:
        for job in self.jobs.values():
            is_pushed = job.prefill_open and job.pushed == -(-job.num_tokens // BLOCK_SIZE)
            if is_pushed and job.tokens and not job.aborted and job.finish is None:
                job.prefill_open, job.started = False, True
                self.prefiller.engine.release(job.request.request_id)
                self.decoder.engine.start(job.request.request_id, job.tokens[0])

    @rule()
    def step_decoder(self) -> None:
        if not self.decoder.engine.has_work:
            return
        report = self.decoder.engine.step()
        for reservation in report.reserved:
            job = self.jobs[reservation.seq_id]
            assert job.destination_ids is None
            job.destination_ids, job.num_resident = reservation.block_ids, reservation.num_resident_tokens
            job.pushed = job.num_resident // BLOCK_SIZE
            if not job.aborted:
                job.prefill_open = True
                self.prefiller.engine.prefill(reservation.seq_id, job.request)
        for output in report.outputs:
            job = self.jobs[output.seq_id]
            assert job.is_local or job.started
            assert output.first_index == len(job.tokens)
            job.tokens += output.token_ids
            job.finish = output.finish_reason
            if job.finish is not None:
                job.decode_open = False
                job.ends.append("finished")
        for ended in report.ended:
            job = self.jobs[ended.seq_id]
            assert ended.error is None and not job.prefill_open
            job.decode_open = False
            job.ends.append("ended")

    # ---- what must hold

    @invariant()
    def blocks_add_up(self) -> None:
        if hasattr(self, "jobs"):
            self.prefiller.engine.scheduler.check()
            self.decoder.engine.scheduler.check()
            assert all(job.tokens == job.expected[: len(job.tokens)] for job in self.jobs.values())

    def teardown(self) -> None:
        if not hasattr(self, "jobs"):
            return
        for _ in range(STEP_LIMIT):
            self.step_decoder()
            self.step_prefiller()
            self.push_a_block(0)
        for job in self.jobs.values():
            assert len(job.ends) == 1, f"{job} ended {len(job.ends)} times"
            if not job.aborted:
                assert (job.tokens, job.finish) == (job.expected, job.expected_reason)
        for worker in (self.prefiller, self.decoder):
            worker.engine.scheduler.check()
            stats = worker.engine.stats()
            assert stats.num_free_blocks == worker.num_blocks
            assert (stats.num_running, stats.num_waiting, stats.num_reserved) == (0, 0, 0)
            assert not worker.engine.has_work


TestTwoWorkers = TwoWorkers.TestCase
TestTwoWorkers.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
