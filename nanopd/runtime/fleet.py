"""The workers as running things: started, introduced to one another, watched, restarted, stopped. Knows nothing of requests."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nanopd.clock import Clock
from nanopd.cluster.events import Event, RestartWorker, WorkerAdded, WorkerLost, WorkerMessage
from nanopd.config import ClusterConfig, EngineConfig, WorkerSpec
from nanopd.errors import WorkerError
from nanopd.messages import Failed, FromWorker, Hello, PeerLost, PeerPool, Shutdown
from nanopd.runtime.devices import Placement, place
from nanopd.runtime.ipc import ControllerChannel
from nanopd.runtime.launcher import Launcher, WorkerHandle
from nanopd.runtime.supervisor import RestartPolicy, Supervisor
from nanopd.workers.options import WorkerOptions

logger = logging.getLogger(__name__)

_GOODBYE_S = 5.0  # for a worker to end after Shutdown, then it is killed
_LAST_WORDS_S = 1.0  # for a message that its sender's end has overtaken


@dataclass(slots=True)
class Member:
    """One worker over all its lives."""

    spec: WorkerSpec
    placement: Placement
    supervisor: Supervisor
    first_hello: "asyncio.Future[Hello]"
    incarnation: int = 0
    is_alive: bool = False  # from the start of a life to the moment its end is noticed
    handle: WorkerHandle | None = None
    hello: Hello | None = None  # None: not ready
    ready_at: float = 0.0
    last_words: str = ""
    has_spoken: asyncio.Event = field(default_factory=asyncio.Event)  # its last words are there
    given_up: bool = False
    task: "asyncio.Task[None] | None" = field(default=None)


class Fleet:
    """All workers of a controller. ``deliver`` takes their events, ``on_given_up`` hears when one will not be started again."""

    def __init__(
        self,
        engine: EngineConfig,
        cluster: ClusterConfig,
        launcher: Launcher,
        channel: ControllerChannel,
        clock: Clock,
        policy: RestartPolicy,
        deliver: Callable[[Event], None],
        on_given_up: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._launcher = launcher
        self._channel = channel
        self._clock = clock
        self._deliver = deliver
        self._on_given_up = on_given_up
        self._serving = False
        self._stopping = False
        loop = asyncio.get_running_loop()
        specs = cluster.topology.workers()
        placements = place(specs, engine)
        self.members = {
            spec.worker_id: Member(spec, placements[spec.worker_id], Supervisor(policy), loop.create_future())
            for spec in specs
        }

    async def start(self) -> list[Hello]:
        """Starts every worker and waits until all are ready. Raises WorkerError with the first failing worker's own words."""
        for member in self.members.values():
            member.task = asyncio.create_task(self._keep_running(member), name=f"nanopd-{member.spec.worker_id}")
        hellos = await asyncio.gather(*(member.first_hello for member in self.members.values()))
        self._serving = True
        return hellos

    def received(self, worker_id: str, incarnation: int, message: FromWorker) -> None:
        """Takes a message from a worker and passes it on. One of an earlier life is dropped, but last words may come after the end."""
        member = self.members.get(worker_id)
        if member is None or member.incarnation != incarnation:
            return
        if isinstance(message, Failed):
            member.last_words = message.error
            member.has_spoken.set()
        if not member.is_alive:
            return
        if isinstance(message, Hello):
            self._introduce(member, message)
        self._deliver(WorkerMessage(worker_id, incarnation, message))
        if isinstance(message, Hello) and not member.first_hello.done():
            member.first_hello.set_result(message)

    def restart(self, command: RestartWorker) -> None:
        """Kills a worker that does not answer; its end and its next life follow by themselves."""
        member = self.members[command.worker_id]
        if member.handle is not None and member.incarnation == command.incarnation:
            member.last_words = command.why
            member.handle.kill()

    @property
    def all_given_up(self) -> bool:
        return all(member.given_up for member in self.members.values())

    async def stop(self) -> None:
        """Ends every worker: by Shutdown, or by force if that takes too long."""
        self._stopping = True
        for member in self.members.values():
            if not member.first_hello.done():
                member.first_hello.cancel()
            if member.handle is None and member.task is not None:
                member.task.cancel()  # it waits for its next life
            elif member.hello is None and member.handle is not None:
                member.handle.kill()  # still loading: it would not hear
            else:
                self._channel.send(member.spec.worker_id, member.incarnation, Shutdown())
        tasks = [member.task for member in self.members.values() if member.task is not None]
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=_GOODBYE_S)
        for member in self.members.values():
            if member.handle is not None:
                member.handle.kill()
        if pending:
            await asyncio.wait(pending, timeout=_GOODBYE_S)

    # ---- one worker

    async def _keep_running(self, member: Member) -> None:
        """Life after life."""
        worker_id = member.spec.worker_id
        while True:
            self._deliver(WorkerAdded(worker_id, member.incarnation, member.spec.role))
            how = await self._live(member)
            lived_s = self._clock.now() - member.ready_at if member.hello is not None else 0.0
            self._part_with(member)
            if self._stopping:
                return
            if lived_s == 0.0 and not member.last_words:  # nothing waits for a worker that never was ready
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(member.has_spoken.wait(), _LAST_WORDS_S)
            sentence = f"worker {worker_id} {how}" + (f": {member.last_words}" if member.last_words else "")
            if not self._serving and not member.first_hello.done():
                member.first_hello.set_exception(WorkerError(sentence))
                return
            delay_s = member.supervisor.died(lived_s)
            if delay_s is None:
                member.given_up = True
                logger.error("%s; it died too often and is not started again", sentence)
                self._on_given_up(sentence)
                return
            logger.warning("%s; it is started again in %.1f s", sentence, delay_s)
            await asyncio.sleep(delay_s)
            member.incarnation += 1

    async def _live(self, member: Member) -> str:
        """One life; returns how it ended."""
        member.last_words = ""
        member.has_spoken.clear()
        member.is_alive = True
        options = WorkerOptions(
            member.spec.worker_id,
            member.incarnation,
            self._channel.address,
            member.placement.engine,
            member.placement.num_workers_on_device,
            self._cluster.heartbeat_interval_s,
            self._cluster.push_timeout_s,
            os.getpid(),
        )
        try:
            member.handle = await self._launcher.launch(options)
        except OSError as error:
            return f"could not be started ({error})"
        loop, patience_s = asyncio.get_running_loop(), self._cluster.startup_timeout_s
        timer = loop.call_later(patience_s, self._startup_expired, member, member.handle)
        try:
            return await member.handle.wait()
        finally:
            timer.cancel()

    def _startup_expired(self, member: Member, handle: WorkerHandle) -> None:
        if member.hello is None and member.handle is handle:
            member.last_words = f"it was not ready after {self._cluster.startup_timeout_s:.0f} s"
            handle.kill()

    # ---- acquaintances

    def _introduce(self, member: Member, hello: Hello) -> None:
        """Tells a new worker of its peers' pools, and them of its own."""
        member.hello = hello
        member.ready_at = self._clock.now()
        for peer in self._peers(member):
            assert peer.hello is not None
            self._send(peer, PeerPool(member.spec.worker_id, member.incarnation, hello.pool))
            self._send(member, PeerPool(peer.spec.worker_id, peer.incarnation, peer.hello.pool))

    def _part_with(self, member: Member) -> None:
        """A life has ended."""
        worker_id, incarnation = member.spec.worker_id, member.incarnation
        member.is_alive = False
        member.handle = None
        member.hello = None
        for peer in self._peers(member):
            self._send(peer, PeerLost(worker_id, incarnation))
        self._deliver(WorkerLost(worker_id, incarnation))

    def _peers(self, member: Member) -> Iterator[Member]:
        return (peer for peer in self.members.values() if peer is not member and peer.hello is not None)

    def _send(self, member: Member, message: PeerPool | PeerLost) -> None:
        self._channel.send(member.spec.worker_id, member.incarnation, message)
