"""What an engine tells its recorder, and how much of it is kept."""

from pathlib import Path

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine
from nanopd.engine.scripted import ScriptedExecutor
from nanopd.kv_transfer.transport import PoolHandle, PushResult
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler
from nanopd.tracing import Recorder, TracedSender
from nanopd.tracing.logs import read_logs


class TickingClock(VirtualClock):
    """Every look at it takes a millisecond."""

    __slots__ = ()

    def now(self) -> float:
        self.advance_to(super().now() + 1e-3)
        return super().now()


def run(recorder: Recorder, depth: int, num_requests: int = 2) -> None:
    blocks = BlockManager(32, 4, False)
    scheduler = Scheduler(SchedulerConfig(prefill_chunk_size=4), blocks, 64)
    engine = Engine(scheduler, ScriptedExecutor(32, 4), TickingClock(), depth, observer=recorder)
    for i in range(num_requests):
        engine.run_local(f"r{i}#0", Request(f"r{i}", (1, 2, 3, 4, 5, 6), SamplingParams(max_tokens=5, temperature=0.0)))
    while engine.has_work:
        engine.step()


def test_every_step_is_noted_in_order_at_any_depth() -> None:
    for depth in (1, 2):
        recorder = Recorder("w", 0, "cpu")
        run(recorder, depth)
        steps = recorder.log().steps
        assert [step.step_id for step in steps] == list(range(len(steps)))
        assert sum(step.num_prefill_tokens for step in steps) == 12
        assert sum(step.num_decodes for step in steps) >= 8
        for step in steps:
            assert step.began < step.scheduled < step.submitted < step.awaited < step.landed < step.applied
            assert step.request_ids and set(step.request_ids) <= {"r0#0", "r1#0"}


def test_the_oldest_steps_are_forgotten() -> None:
    everything, little = Recorder("w", 0, "cpu"), Recorder("w", 0, "cpu", max_steps=3)
    run(everything, 1)
    run(little, 1)
    assert little.log().steps == everything.log().steps[-3:]
    assert little.log().num_forgotten == len(everything.log().steps) - 3


def test_logs_come_back_from_disk(tmp_path: Path) -> None:
    recorder = Recorder("w", 1, "cpu")
    run(recorder, 1)
    recorder.write(str(tmp_path / "new"))
    assert read_logs(tmp_path / "new") == ([recorder.log()], [])


class Sender:
    """Every push has ended by the next poll."""

    def __init__(self) -> None:
        self.pushed: list[str] = []

    def meet(self, destination: PoolHandle) -> None: ...

    def push(self, push_id: str, destination: PoolHandle, source_ids: object, destination_ids: object) -> None:
        self.pushed.append(push_id)

    def poll(self) -> list[PushResult]:
        ended, self.pushed = self.pushed, []
        return [PushResult(push_id, 4096, 1.0) for push_id in ended]

    def cancel(self, push_id: str) -> None: ...

    def forget(self, destination: PoolHandle) -> None: ...

    def close(self) -> None: ...


def test_pushes_are_noted_when_they_end() -> None:
    recorder = Recorder("w", 0, "cpu")
    sender = TracedSender(Sender(), recorder, TickingClock())
    pool = PoolHandle("loopback", "pool", 1, 8, 4, 1, 8, "float32")
    sender.push("r#0/0", pool, (1, 2), (3, 4))
    assert recorder.log().pushes == ()
    assert [result.push_id for result in sender.poll()] == ["r#0/0"]
    (push,) = recorder.log().pushes
    assert (push.push_id, push.num_blocks, push.num_bytes) == ("r#0/0", 2, 4096) and push.began < push.ended
