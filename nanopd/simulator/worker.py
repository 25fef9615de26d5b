"""A simulated worker: the production ``Worker`` and ``Engine``; only the loop around them runs on virtual time.

::

    idle --message--> turn: inbox, launch --step_ms--> land: collect, report --host_ms--> turn ...

With ``pipeline_depth`` 2 a turn launches the step after the one that is about to run, as on a GPU; a step without a graph keeps the host
busy while it is launched, and the device has not done it before. Messages that come while steps run wait for the next turn; one that comes at
the very moment of a turn misses it. While steps only decode the same sequences they are not looked at one by one (``stretch``), with the same
outcome; not so on a shared device, where a step's end depends on what the others run (``device``).
"""

from collections import deque
from collections.abc import Callable

from nanopd.block_manager import BlockManager
from nanopd.config import SchedulerConfig
from nanopd.cost_model import HardwareProfile
from nanopd.engine import Engine, StepReport
from nanopd.messages import FromWorker, Heartbeat, Hello, TokensOut, ToWorker
from nanopd.scheduler import Scheduler
from nanopd.simulator.burst import Burst
from nanopd.simulator.device import SharedDevice
from nanopd.simulator.events import EventQueue
from nanopd.simulator.executor import CostModelExecutor
from nanopd.simulator.network import SimSender
from nanopd.simulator.stretch import Stretch, find_stretch
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
    """``send`` takes what the worker says, and when (seconds)."""

    def __init__(
        self,
        worker_id: str,
        profile: HardwareProfile,
        config: SchedulerConfig,
        executor: CostModelExecutor,
        sender: SimSender,
        events: EventQueue,
        send: Callable[[str, FromWorker, float], None],
        *,
        pipeline_depth: int,
        fast_forward: bool,
        shared_device: SharedDevice | None = None,
    ) -> None:
        self.worker_id = worker_id
        self.busy_s = 0.0
        self._profile = profile
        self._events = events
        self._send = send
        self._executor = executor
        self._host_s = profile.host_overhead_ms / 1e3 if pipeline_depth == 1 else 0.0  # deeper: while a step runs
        self._fast_forward = fast_forward and not self._host_s and shared_device is None
        self._shared_device = shared_device
        self._burst = Burst(executor.model.terms)
        blocks = BlockManager(profile.num_blocks, profile.block_size)
        scheduler = Scheduler(config, blocks, profile.max_model_len)
        self.engine = Engine(scheduler, executor, events.clock, pipeline_depth)
        self.worker = Worker(
            SteppedEngine(self.engine),  # type: ignore[arg-type]
            sender,
            events.clock,
            block_size=profile.block_size,
            push_timeout_s=PUSH_TIMEOUT_S,
        )
        self._inbox: list[tuple[float, ToWorker]] = []  # with the time they came
        self._in_flight: deque[float] = (
            deque()
        )  # when the device ends the steps in flight; shared: when it may at the earliest
        self._num_done = 0  # of those, on a shared device
        self._device_free = self._host_free = 0.0
        self._is_waiting = False  # a turn is set
        self._landing = 0  # number of the landing that is set; earlier ones were set anew
        self._stretch: Stretch | None = None

    @property
    def is_running(self) -> bool:
        return bool(self._in_flight)

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

    # ---- what comes from outside

    def deliver(self, message: ToWorker) -> None:
        """Takes a message; it is read when the worker next looks at its inbox."""
        self._end_stretch()
        self._inbox.append((self._now, message))
        self._wake()

    def look_at_pushes(self) -> None:
        """A push has ended: noticed at once, also while a step runs."""
        self._end_stretch()
        self.worker.look_at_pushes()
        self._post()
        self._wake()  # blocks may have been given back

    def heartbeat(self) -> Heartbeat:
        self._catch_up()
        return self.worker.heartbeat()

    def news(self) -> tuple[float, TokensOut] | None:
        """Tokens that the central scheduler has not been told of, and when the last of them was sampled."""
        return self._stretch.news(self._now) if self._stretch is not None else None

    def step_singly(self) -> None:
        """From now on every step is looked at, until the worker finds a stretch again."""
        self._end_stretch()

    # ---- the loop

    @property
    def _now(self) -> float:
        return self._events.clock.now()

    def _wake(self) -> None:
        """Has the loop go round now, unless steps run: then it does so when the next one ends."""
        if not self._in_flight and not self._is_waiting:
            self._is_waiting = True
            self._events.at(self._now, self._idle_turn)

    def _idle_turn(self) -> None:
        inbox, self._inbox = [message for _, message in self._inbox], []
        self._turn(inbox)

    def _next_turn(self) -> None:
        """After a step: what has come before now is read."""
        now = self._now
        inbox = [message for came, message in self._inbox if came < now]
        del self._inbox[: len(inbox)]
        self._turn(inbox)

    def _turn(self, inbox: list[ToWorker]) -> None:
        self._is_waiting = False
        for message in inbox:
            self.worker.handle(message)
        while self.engine.launch() is not None:
            self._note_launch()
        self._report()
        if self._in_flight:
            self._plan_landing()
        elif self._inbox or self.engine.has_work:  # the end of a push, just read, may have given blocks back
            self._wake()

    def _note_launch(self) -> None:
        step_s = self._executor.last_step_ms / 1e3
        begin = max(self._now, self._host_free)
        self._host_free = begin + self._executor.last_launch_ms / 1e3
        if self._shared_device is not None:
            self.busy_s += step_s
            self._in_flight.append(self._host_free)
            self._begin_on_shared_device(begin, step_s)
            return
        begin = max(begin, self._device_free)
        if not self._executor.last_is_decode:
            step_s = self._burst.prefill_s(begin, step_s)
        self.busy_s += step_s
        self._device_free = max(begin + step_s, self._host_free)
        self._in_flight.append(self._device_free)

    def _begin_on_shared_device(self, when: float, step_s: float) -> None:
        device, is_decode = self._shared_device, self._executor.last_is_decode
        assert device is not None
        self._events.at(when, lambda: device.run(self.worker_id, step_s, is_decode, self._device_done))

    def _device_done(self) -> None:
        """The oldest step that a shared device had not done is done."""
        self._num_done += 1
        if self._num_done == 1:
            self._plan_landing()

    def _plan_landing(self) -> None:
        """Sets the time at which the oldest step is found to have ended; or that of a later one, if those before need not be looked at."""
        end = self._in_flight[0]
        if self._shared_device is not None and not self._num_done:
            return  # it is not known yet
        if self._fast_forward and not self._inbox and self._host_free <= end:
            self._stretch = find_stretch(self.engine, self._executor, self._in_flight)
            if self._stretch is not None:
                end = self._stretch.ends[self._stretch.num_left]
        self._set_landing(max(end, self._host_free))

    def _set_landing(self, when: float) -> None:
        self._landing += 1
        number = self._landing
        self._events.at(when, lambda: self._land(number), ends_step=True)

    def _land(self, number: int) -> None:
        if number != self._landing:
            return  # set anew since
        if self._stretch is not None:
            self._catch_up()
            self._stretch = None
        self._in_flight.popleft()
        self._num_done -= self._shared_device is not None
        self.engine.collect()
        self._report()
        if self._host_s:
            self._is_waiting = True
            self._events.at(self._now + self._host_s, self._next_turn)
        else:
            self._next_turn()

    # ---- stretches

    def _catch_up(self) -> None:
        """Brings the engine to where stepping would have brought it by now."""
        stretch = self._stretch
        if stretch is None or (num_steps := stretch.num_ended(self._now)) == 0:
            return
        if (news := stretch.news(self._now)) is not None:
            self._send(self.worker_id, news[1], news[0])
        timings, launched = stretch.advance(self.engine, num_steps)
        self.worker.skipped(timings)
        for step_s in launched:
            self.busy_s += step_s
        self._in_flight = deque(stretch.in_flight())
        self._device_free = self._in_flight[-1]

    def _end_stretch(self) -> None:
        """The next step that ends is looked at."""
        if self._stretch is not None:
            self._catch_up()
            self._stretch = None
            self._set_landing(self._in_flight[0])

    def _report(self) -> None:
        self.worker.step()
        self._post()

    def _post(self) -> None:
        outbox, self.worker.outbox = self.worker.outbox, []
        for message in outbox:
            self._send(self.worker_id, message, self._now)
