"""A simulated worker: the production ``Worker`` and ``Engine``; only the loop around them runs on virtual time.

::

    idle --message--> launch: inbox, schedule, submit --step_ms--> land: collect, report --host_ms--> launch ...

Messages that come while a step runs wait for its end, as they do in a worker process.
"""

from collections.abc import Callable

from nanopd.block_manager import BlockManager
from nanopd.config import SchedulerConfig
from nanopd.cost_model import HardwareProfile
from nanopd.engine import Engine, StepReport
from nanopd.messages import FromWorker, Hello, ToWorker
from nanopd.scheduler import Scheduler
from nanopd.simulator.events import EventQueue
from nanopd.simulator.executor import CostModelExecutor
from nanopd.simulator.network import SimSender
from nanopd.workers.worker import Worker

PUSH_TIMEOUT_S = 3600.0  # pushes are never lost here


class SteppedEngine:
    """An engine whose ``step`` only reports: launching and collecting happen at times of their own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run_local, self.prefill, self.reserve = engine.run_local, engine.prefill, engine.reserve
        self.start, self.abort, self.release, self.stats = engine.start, engine.abort, engine.release, engine.stats

    def step(self) -> StepReport:
        return self.engine.report()


class SimWorker:
    """``send`` takes what the worker says."""

    def __init__(
        self,
        worker_id: str,
        profile: HardwareProfile,
        config: SchedulerConfig,
        executor: CostModelExecutor,
        sender: SimSender,
        events: EventQueue,
        send: Callable[[str, FromWorker], None],
        host_ms: float,
    ) -> None:
        self.worker_id = worker_id
        self.busy_s = 0.0
        self._profile = profile
        self._events = events
        self._send = send
        self._executor = executor
        self._host_s = host_ms / 1e3
        blocks = BlockManager(profile.num_blocks, profile.block_size)
        self.engine = Engine(Scheduler(config, blocks, profile.max_model_len), executor, events.clock)
        self.worker = Worker(
            SteppedEngine(self.engine),  # type: ignore[arg-type]
            sender,
            events.clock,
            block_size=profile.block_size,
            push_timeout_s=PUSH_TIMEOUT_S,
        )
        self._inbox: list[ToWorker] = []
        self._is_running = False  # a step is under way
        self._is_waking = False  # a launch is set

    def hello(self) -> Hello:
        profile = self._profile
        return Hello(
            self.worker_id,
            0,
            0,
            profile.num_blocks,
            profile.block_size,
            profile.max_model_len,
            profile.kv_bytes_per_token,
            {},
            "simulated",
        )

    def deliver(self, message: ToWorker) -> None:
        """Takes a message; it is read when the worker next looks at its inbox."""
        self._inbox.append(message)
        self.wake()

    def wake(self) -> None:
        """Has the loop go round now, unless a step runs: then it does so at its end."""
        if not self._is_running and not self._is_waking:
            self._is_waking = True
            self._events.at(self._events.clock.now(), self._launch)

    def _launch(self) -> None:
        self._is_waking = False
        inbox, self._inbox = self._inbox, []
        for message in inbox:
            self.worker.handle(message)
        if self.engine.launch() is not None:
            self._is_running = True
            step_s = self._executor.last_step_ms / 1e3
            self.busy_s += step_s
            self._events.at(self._events.clock.now() + step_s, self._land)
        self._report()
        if self.engine.has_work:  # the end of a push, just read, may have given blocks back
            self.wake()

    def _land(self) -> None:
        self._is_running = False
        self.engine.collect()
        self._report()
        if self._inbox or self.engine.has_work:
            self._is_waking = True
            self._events.at(self._events.clock.now() + self._host_s, self._launch)

    def _report(self) -> None:
        self.worker.step()
        outbox, self.worker.outbox = self.worker.outbox, []
        for message in outbox:
            self._send(self.worker_id, message)
