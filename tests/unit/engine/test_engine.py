"""The engine's loop: what a step waits for, what it tells, and when."""

import pytest

from nanopd.batch import Batch, StepResult
from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine, StepReport
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.scheduler import Scheduler


class Handle:
    def __init__(self, executor: "SlowDevice", batch: Batch) -> None:
        self.executor = executor
        self.num_rows = sum(piece.sample is not None for piece in batch.slices)

    def done(self) -> bool:
        return False

    def result(self) -> StepResult:
        self.executor.num_waits += 1
        self.executor.clock.advance_to(self.executor.clock.now() + 0.010)
        return StepResult([7] * self.num_rows, [None] * self.num_rows)


class SlowDevice:
    """Each wait for a result takes 10 ms of the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.batches: list[Batch] = []
        self.num_waits = 0

    def submit(self, batch: Batch) -> Handle:
        self.batches.append(batch)
        return Handle(self, batch)


def make(depth: int = 1, num_blocks: int = 16) -> tuple[Engine, SlowDevice]:
    clock = VirtualClock()
    device = SlowDevice(clock)
    scheduler = Scheduler(
        SchedulerConfig(prefill_chunk_size=8), BlockManager(num_blocks, 4, enable_prefix_cache=False), 64
    )
    return Engine(scheduler, device, clock, depth), device


def request(num_prompt: int = 6, max_tokens: int = 3) -> Request:
    return Request("r", tuple(range(num_prompt)), SamplingParams(max_tokens=max_tokens, temperature=0.0))


def test_depth_is_checked() -> None:
    with pytest.raises(ValueError, match="pipeline_depth must be at least 1, got 0"):
        make(depth=0)


def test_an_idle_engine_does_nothing() -> None:
    engine, device = make()
    assert not engine.has_work
    assert engine.step() == StepReport()
    assert device.batches == []


def test_depth_one_waits_for_each_step() -> None:
    engine, device = make()
    engine.run_local("a", request())
    outputs = [engine.step().outputs[0] for _ in range(3)]
    assert [output.first_index for output in outputs] == [0, 1, 2]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert not engine.has_work and len(device.batches) == 3


def test_depth_two_runs_one_step_ahead() -> None:
    engine, device = make(depth=2)
    engine.run_local("a", request())
    assert engine.step().outputs == () and device.num_waits == 0
    assert len(engine.step().outputs) == 1
    assert (len(device.batches), device.num_waits) == (2, 1)
    assert device.batches[1].slices[0].previous_row == 0
    engine.step()
    assert engine.step().outputs[0].finish_reason is FinishReason.LENGTH
    assert not engine.has_work  # no spare step: the length was foreseen
    assert (len(device.batches), device.num_waits) == (3, 3)


def test_a_reservation_is_told_before_the_running_step_ends() -> None:
    engine, device = make()
    engine.run_local("a", request())
    engine.reserve("b", request())
    report = engine.step()
    assert [granted.seq_id for granted in report.reserved] == ["b"]
    assert len(device.batches) == 1 and device.num_waits == 0
    assert [output.seq_id for output in engine.step().outputs] == ["a"]


def test_what_waits_for_others_is_not_work() -> None:
    engine, _ = make(num_blocks=3)
    engine.reserve("a", request(num_prompt=9))
    engine.run_local("b", request())
    assert engine.step().reserved[0].seq_id == "a"
    assert not engine.has_work
    engine.abort("a")
    assert engine.has_work
    assert engine.step().ended[0].seq_id == "a"
    assert engine.step().outputs[0].seq_id == "b"


def test_timing_describes_the_step() -> None:
    engine, _ = make()
    engine.run_local("a", request(num_prompt=6))
    engine.step()
    engine.run_local("b", request(num_prompt=12))
    timing = engine.step().timing
    assert (timing.num_prefill_tokens, timing.num_decodes, timing.decode_context) == (8, 1, 7)
    assert timing.prefill_attention == sum(range(1, 9))
    assert timing.step_ms == pytest.approx(10.0) and engine.stats().step_ms == pytest.approx(10.0)
    assert engine.step().timing.prefill_attention == sum(range(9, 13))


def test_unknown_ids_are_ignored() -> None:
    engine, _ = make()
    engine.abort("x")
    engine.release("x")
    engine.start("x", 1)
    assert engine.step() == StepReport()


def test_a_sequence_id_is_used_once_at_a_time() -> None:
    engine, _ = make()
    engine.run_local("a", request())
    with pytest.raises(AssertionError, match="added twice"):
        engine.run_local("a", request())
