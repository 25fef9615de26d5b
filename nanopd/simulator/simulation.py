"""The discrete-event simulation of a whole cluster: the production central scheduler, router, workers, engines, schedulers and block managers.

Only four things are models: how long a step takes, how long KV is on its way, when each answer ends, and the clock.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from nanopd.clock import VirtualClock
from nanopd.cluster import CentralScheduler
from nanopd.cluster.events import Command, FinishRequest, RequestArrived, Send, Tick, WorkerAdded, WorkerMessage
from nanopd.config import ClusterConfig, SchedulerConfig, Topology
from nanopd.cost_model import HardwareProfile, StepModel
from nanopd.errors import ConfigError
from nanopd.kv_transfer.transport import PoolHandle
from nanopd.messages import FromWorker, Heartbeat, KvPushed, LegEnded, PeerPool, Prefill, TokensOut, ToWorker
from nanopd.request import FinishReason, Request
from nanopd.router import Router
from nanopd.simulator.device import DeviceSharing, SharedDevice
from nanopd.simulator.events import EventQueue
from nanopd.simulator.executor import CostModelExecutor
from nanopd.simulator.network import Network, SimSender
from nanopd.simulator.requests import request_of
from nanopd.simulator.result import RequestRecord, SimulationResult
from nanopd.simulator.worker import SimWorker
from nanopd.workload import RequestSpec


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """What is simulated, apart from the profile and the router."""

    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(topology=Topology(num_collocated=1)))
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(max_num_seqs=256))
    overlap_host: bool = True  # pipeline depth 2, as on a GPU: the host launches the next step while this one runs
    fast_forward: bool = (
        True  # steps that only decode the same sequences are not looked at one by one; the outcome is the same
    )
    sharing: DeviceSharing | None = None  # all workers share one device; None: each has its own
    wire_s: float = 0.0  # that a message takes: of a client to the central scheduler, between that and a worker


class Simulation:
    """One run over one workload."""

    def __init__(
        self,
        profile: HardwareProfile,
        router: Router,
        config: SimulationConfig,
        *,
        step_model: StepModel | None = None,
        final_lens: dict[str, int] | None = None,
    ) -> None:
        """``step_model``: what steps truly take, if that is not what the profile (and so a router) believes.

        ``final_lens``: filled with the length of each request that has arrived, prompt and output; for an oracle.
        """
        self.clock = VirtualClock()
        self.events = EventQueue(self.clock)
        self.central = CentralScheduler(config.cluster, router)
        self._profile = profile
        self._config = config
        self._network = Network(profile.transfer, self.events)
        self.final_lens: dict[str, int] = final_lens if final_lens is not None else {}
        self._requests: dict[str, Request] = {}
        self._records: list[RequestRecord] = []
        self._acquainted: set[tuple[str, str]] = set()
        self._num_unfinished = 0
        self._tick_at: float | None = None
        self.workers: dict[str, SimWorker] = {}
        shared_device = SharedDevice(config.sharing, self.events) if config.sharing is not None else None
        for spec in config.cluster.topology.workers():
            executor = CostModelExecutor(step_model or profile.step, self.final_lens)
            block_bytes = profile.block_size * profile.kv_bytes_per_token
            sender = SimSender(self._network, spec.worker_id, block_bytes, partial(self._push_ended, spec.worker_id))
            self.workers[spec.worker_id] = SimWorker(
                spec.worker_id,
                profile,
                config.scheduler,
                executor,
                sender,
                self.events,
                self._from_worker,
                pipeline_depth=2 if config.overlap_host else 1,
                fast_forward=config.fast_forward and not config.wire_s,
                shared_device=shared_device,
            )
            self._feed(WorkerAdded(spec.worker_id, 0, spec.role))
        for worker in self.workers.values():
            self._from_worker(worker.worker_id, worker.hello(), self.clock.now())

    def run(self, specs: Sequence[RequestSpec]) -> SimulationResult:
        """Plays the workload until its last request has ended. Raises ConfigError for an empty one."""
        if not specs:
            raise ConfigError("a simulation needs at least one request, got an empty workload")
        self._num_unfinished = len(specs)
        arrivals = iter(enumerate(sorted(specs, key=lambda spec: spec.arrival_s)))

        def set_next() -> None:
            if (following := next(arrivals, None)) is not None:
                index, spec = following
                self.events.at(spec.arrival_s + self._config.wire_s, lambda: arrive(index, spec))

        def arrive(index: int, spec: RequestSpec) -> None:
            self._arrive(f"r{index}", spec)
            set_next()

        set_next()
        for worker_id in self.workers:
            self._beat(worker_id)
        while self._num_unfinished and self.events.run_next():
            pass
        assert self._num_unfinished == 0, f"{self._num_unfinished} requests hang"
        elapsed = max(self.clock.now(), 1e-9)
        while any(worker.is_running for worker in self.workers.values()):  # spare steps
            self.events.run_next()
        busy = {key: worker.busy_s / elapsed for key, worker in self.workers.items()}
        span = max(spec.arrival_s for spec in specs) - min(spec.arrival_s for spec in specs)
        return SimulationResult(tuple(self._records), len(self.workers), span, elapsed, busy)

    # ---- events

    def _arrive(self, request_id: str, spec: RequestSpec) -> None:
        request = request_of(spec, request_id, self._profile.max_model_len)
        assert request.sampling.max_tokens is not None
        num_output = min(spec.num_output_tokens, request.sampling.max_tokens)
        self.final_lens[request_id] = len(request.prompt_token_ids) + num_output
        self._requests[request_id] = request
        self._feed(RequestArrived(request))

    def _from_worker(self, worker_id: str, message: FromWorker, when: float) -> None:
        if not self._config.wire_s:
            self._feed(WorkerMessage(worker_id, 0, message), when)
            return
        self.events.at(when + self._config.wire_s, lambda: self._feed(WorkerMessage(worker_id, 0, message)))

    def _to_worker(self, worker_id: str, message: ToWorker) -> None:
        worker, wire_s = self.workers[worker_id], self._config.wire_s
        if not wire_s:
            worker.deliver(message)
            return
        self.events.at(self.clock.now() + wire_s, lambda: worker.deliver(message))

    def _beat(self, worker_id: str) -> None:
        """Heartbeats carry the load, as in production."""
        self._from_worker(worker_id, self.workers[worker_id].heartbeat(), self.clock.now())
        interval = self._config.cluster.heartbeat_interval_s
        self.events.at(self.clock.now() + interval, lambda: self._beat(worker_id))

    def _push_ended(self, worker_id: str) -> None:
        self.workers[worker_id].look_at_pushes()

    def _tick(self) -> None:
        self._tick_at = None
        self._feed(Tick())

    # ---- the central scheduler

    def _feed(self, event: RequestArrived | WorkerMessage | WorkerAdded | Tick, when: float | None = None) -> None:
        """``when``: seconds; None: now."""
        if _may_plan(event):
            self._tell_all()
        for command in self.central.on_event(event, self.clock.now() if when is None else when):
            self._carry_out(command)
        if self.central.num_queued:  # then every event is a reason to plan
            for worker in self.workers.values():
                worker.step_singly()
        due = self.central.next_deadline()
        if due is not None and (self._tick_at is None or due < self._tick_at):
            self._tick_at = due
            self.events.at(due, self._tick)

    def _tell_all(self) -> None:
        """The central scheduler is about to look at the load: it hears of every token sampled by now."""
        told = [(worker_id, news) for worker_id, worker in self.workers.items() if (news := worker.news()) is not None]
        for worker_id, (when, message) in sorted(told, key=lambda item: item[1][0]):
            self.central.on_event(WorkerMessage(worker_id, 0, message), when)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send(worker_id=worker_id, message=message):
                if isinstance(message, Prefill):
                    self._introduce(worker_id, message.destination_worker)
                self._to_worker(worker_id, message)
            case FinishRequest():
                request = self._requests.pop(command.request_id)
                del self.final_lens[command.request_id]
                self._records.append(RequestRecord.of(command, request, self.clock.now()))
                self._num_unfinished -= 1

    def _introduce(self, worker_id: str, peer_id: str) -> None:
        """A worker gets to know another's pool before it first pushes there: of a thousand workers few pairs ever meet."""
        if (worker_id, peer_id) in self._acquainted:
            return
        self._acquainted.add((worker_id, peer_id))
        profile = self._profile
        pool = PoolHandle("simulated", peer_id, 1, profile.num_blocks, profile.block_size, 1, 1, "uint8")
        self.workers[worker_id].worker.handle(PeerPool(peer_id, 0, asdict(pool)))


def _may_plan(event: RequestArrived | WorkerMessage | WorkerAdded | Tick) -> bool:
    """Whether the router may be asked, and look at all workers."""
    if not isinstance(event, WorkerMessage):
        return True
    match event.message:
        case TokensOut() | Heartbeat() | KvPushed():
            return False
        case LegEnded(reason=reason):
            return reason not in (FinishReason.STOP, FinishReason.LENGTH)
    return True
