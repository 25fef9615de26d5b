"""The controller: feeds the central scheduler with what happens and carries out what it answers. Lives in one asyncio event loop."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from nanopd import router
from nanopd.clock import Clock
from nanopd.cluster import CentralScheduler, ClusterSnapshot
from nanopd.cluster.events import (
    Command,
    EmitTokens,
    Event,
    FinishRequest,
    RequestAborted,
    RequestArrived,
    RestartWorker,
    Send,
    Tick,
)
from nanopd.config import ClusterConfig, EngineConfig
from nanopd.cost_model import HardwareProfile, bundled
from nanopd.errors import InvalidRequestError, OverloadedError, WorkerError
from nanopd.messages import FromWorker, Hello
from nanopd.request import FinishReason, Request
from nanopd.runtime.admission import QueueBound, resolve_request
from nanopd.runtime.clock import WallClock
from nanopd.runtime.fleet import Fleet
from nanopd.runtime.ipc import ControllerChannel
from nanopd.runtime.launcher import Launcher, LocalProcessLauncher
from nanopd.runtime.stream import RequestStream
from nanopd.runtime.supervisor import RestartPolicy
from nanopd.tracing import RequestRecorder
from nanopd.weights import load_config, resolve_model

logger = logging.getLogger(__name__)


class Controller:
    """Requests in, token streams out. Every accepted request ends exactly once.

    All methods are called in the event loop that ran ``start``; another thread uses ``loop.call_soon_threadsafe``.
    """

    def __init__(
        self,
        engine: EngineConfig,
        cluster: ClusterConfig,
        *,
        launcher: Launcher | None = None,
        clock: Clock | None = None,
        restart_policy: RestartPolicy | None = None,
    ) -> None:
        """Raises UnknownModelError, UnsupportedModelError, ConfigError: a model or profile that is not there is noticed before a worker starts."""
        self.engine_config = engine
        self.cluster_config = cluster
        self._profile = _load_profile(cluster.profile)
        self.model_config = load_config(resolve_model(engine.model))
        self.max_model_len = 0  # known once the workers are ready
        self.on_tokens: list[Callable[[EmitTokens], None]] = []
        self.on_finish: list[Callable[[FinishRequest, Request], None]] = []
        self.recent: deque[FinishRequest] = deque(maxlen=64)  # the last requests that ended
        self._recorder = RequestRecorder() if engine.trace_dir is not None else None
        if self._recorder is not None:
            self.on_finish.append(self._recorder.finished)
        self._launcher = launcher or LocalProcessLauncher()
        self._clock = clock or WallClock()
        self._restart_policy = restart_policy or RestartPolicy()
        self._bound = QueueBound(cluster.max_queued_requests)
        self._streams: dict[str, RequestStream] = {}
        self._central: CentralScheduler | None = None
        self._early: list[Event] = []  # what happened before there was a central scheduler
        self._channel: ControllerChannel | None = None
        self._fleet: Fleet | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusal: str | None = None  # why no request is taken any more

    # ---- life

    async def start(self) -> None:
        """Starts the workers and waits until all are ready.

        Raises WorkerError with the failing worker's own sentence; then nothing is left running.
        """
        self._channel = ControllerChannel()
        self._fleet = Fleet(
            self.engine_config,
            self.cluster_config,
            self._launcher,
            self._channel,
            self._clock,
            self._restart_policy,
            self._feed,
            self._on_given_up,
        )
        self._receiver = asyncio.create_task(self._channel.receive(self._received), name="nanopd-receiver")
        try:
            self._open(await self._fleet.start())
        except BaseException:
            await self.stop()
            raise

    def _open(self, hellos: list[Hello]) -> None:
        """All workers are ready."""
        self.max_model_len = min(min(hello.max_model_len, hello.num_blocks * hello.block_size) for hello in hellos)
        device = hellos[0].device.partition(":")[0]
        config, kv_bytes = self.cluster_config, hellos[0].kv_bytes_per_token
        policy = router.build(
            kv_bytes, device, config.policy, self._profile, rejects_hopeless=config.on_hopeless == "reject"
        )
        self._central = CentralScheduler(self.cluster_config, policy)
        early, self._early = self._early, []
        for event in early:
            self._feed(event)

    async def drain(self, timeout_s: float) -> None:
        """Takes no more requests and waits for those it has, at most ``timeout_s``."""
        self._refusal = self._refusal or "the server is shutting down"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    async def stop(self) -> None:
        """Ends everything: unfinished requests (reason ABORT), workers, sockets. Idempotent.

        Leaves no process, file or shared memory behind.
        """
        self._refusal = self._refusal or "the server is shutting down"
        for request_id in list(self._streams):
            self.abort(request_id)
        if self._timer is not None:
            self._timer.cancel()
        if self._fleet is not None:
            await self._fleet.stop()
        if self._receiver is not None:
            self._receiver.cancel()
            await asyncio.wait([self._receiver])
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._recorder is not None and self.engine_config.trace_dir is not None:
            self._recorder.write(self.engine_config.trace_dir)

    # ---- requests

    def submit(self, request: Request) -> RequestStream:
        """Accepts a request.

        Raises OverloadedError (queue bound, shutting down), PromptTooLongError, InvalidRequestError, WorkerError (no worker is left).
        """
        now = self._clock.now()
        if self._fleet is not None and self._fleet.all_given_up:
            raise WorkerError(self._refusal or "no worker is left")
        if self._refusal is not None or self._central is None:
            raise OverloadedError(self._refusal or "the workers are not ready yet")
        request = resolve_request(request, self.model_config.vocab_size, self.max_model_len, now)
        if request.request_id in self._streams:
            raise InvalidRequestError(f"request_id {request.request_id!r} is in use", "request_id")
        self._bound.check(self._central.queue_depth, now)
        stream = self._streams[request.request_id] = RequestStream(request)
        self._idle.clear()
        self._feed(RequestArrived(request))
        return stream

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """Ends a request early; its stream ends at once, its blocks come back when the workers have let go. Unknown ids are ignored."""
        if request_id in self._streams:
            self._feed(RequestAborted(request_id, reason))

    def snapshot(self) -> ClusterSnapshot:
        """Workers, unfinished requests, counters."""
        if self._central is None:
            raise WorkerError("the workers are not ready yet")
        return self._central.snapshot()

    def worker_pids(self) -> dict[str, int]:
        """Process ids of the running workers, by worker id."""
        members = self._fleet.members.values() if self._fleet is not None else ()
        return {member.spec.worker_id: member.handle.pid for member in members if member.handle is not None}

    # ---- events and commands

    def _received(self, worker_id: str, incarnation: int, message: FromWorker) -> None:
        assert self._fleet is not None
        try:
            self._fleet.received(worker_id, incarnation, message)
        except Exception:  # one bad event must not end the service for all requests
            logger.exception("an event from %s could not be handled", worker_id)

    def _feed(self, event: Event) -> None:
        if self._central is None:
            self._early.append(event)
            return
        for command in self._central.on_event(event, self._clock.now()):
            self._carry_out(command)
        self._arm()

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send(worker_id, incarnation, message):
                assert self._channel is not None
                self._channel.send(worker_id, incarnation, message)
            case EmitTokens(request_id, delta):
                self._streams[request_id].feed(delta)
                for on_tokens in self.on_tokens:
                    on_tokens(command)
            case FinishRequest():
                self._finish(command)
            case RestartWorker():
                assert self._fleet is not None
                self._fleet.restart(command)

    def _finish(self, finish: FinishRequest) -> None:
        stream = self._streams.pop(finish.request_id)
        self._bound.finished(self._clock.now())
        self.recent.append(finish)
        stream.end(finish)
        for on_finish in self.on_finish:
            on_finish(finish, stream.request)
        if not self._streams:
            self._idle.set()

    def _arm(self) -> None:
        """One timer, for the earliest deadline."""
        assert self._central is not None
        when = self._central.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, when - self._clock.now()), self._feed, Tick())

    def _on_given_up(self, sentence: str) -> None:
        """A worker will not come back. Others take its work; without others, every request ends now."""
        assert self._fleet is not None
        if self._fleet.all_given_up:
            self._refusal = f"no worker is left: {sentence}"
            for request_id in list(self._streams):
                self._feed(RequestAborted(request_id, FinishReason.ERROR, self._refusal))


def _load_profile(name: str | None) -> HardwareProfile | None:
    if name is None:
        return None
    return HardwareProfile.load(Path(name)) if name.endswith(".json") else bundled(name)
