"""The central scheduler: every event of the cluster in, commands out. Pure policy; the controller and the simulator run this same code.

A request runs as numbered attempts, each planned by the router. If a leg of the attempt is lost, whatever the cause, the attempt is closed and the
next one goes on from the tokens the client already has: sampling depends only on seed and position, so the stream continues as if nothing happened.
"""

from collections import deque

from nanopd.cluster.deadlines import Deadline, Deadlines, Wait
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
    WorkerAdded,
    WorkerLost,
    WorkerMessage,
)
from nanopd.cluster.handoff_graph import HandoffGraph
from nanopd.cluster.leg_book import LegKind, OpenLeg
from nanopd.cluster.legs import Legs
from nanopd.cluster.reconcile import reconcile
from nanopd.cluster.registry import Registry
from nanopd.cluster.snapshot import ClusterSnapshot, Counters, take_snapshot
from nanopd.cluster.tracked_request import RequestState, TrackedRequest
from nanopd.config import ClusterConfig
from nanopd.messages import (
    Heartbeat,
    Hello,
    KvPushed,
    LegEnded,
    Prefill,
    Reserve,
    Reserved,
    RunLocal,
    Start,
    TokenDelta,
    TokensOut,
)
from nanopd.request import FinishReason, Strategy
from nanopd.router import ClusterView, Router, WorkerView

NUM_FREE_ATTEMPTS = 2  # attempts that may disaggregate; later ones run on one worker, where less can go wrong


class CentralScheduler:
    """All requests and workers. Not thread-safe: one caller, one event at a time."""

    def __init__(self, config: ClusterConfig, router: Router) -> None:
        self.config = config
        self.router = router
        self.workers = Registry()
        self.counters = Counters()
        self._requests: dict[str, TrackedRequest] = {}
        self._queued: deque[str] = deque()
        self._deadlines = Deadlines()
        self._legs = Legs(self.workers, self._deadlines, config.abort_timeout_s)
        self._handoffs = HandoffGraph()
        self._commands: list[Command] = []
        self._now = 0.0

    # ---- the door

    def on_event(self, event: Event, now: float) -> list[Command]:
        """Takes one event at ``now`` (seconds) and returns what is to be done, in order."""
        self._now = now
        self._commands = []
        match event:
            case RequestArrived():
                self._arrived(event)
            case RequestAborted():
                if (tracked := self._requests.get(event.request_id)) is not None:
                    self._finish(tracked, event.reason, event.error)
            case WorkerMessage():
                self._on_message(event)
            case WorkerAdded():
                self.workers.add(event.worker_id, event.incarnation, event.role)
            case WorkerLost():
                self._worker_lost(event)
            case Tick():
                pass
        for deadline in self._deadlines.due(now):
            self._expired(deadline)
        if self._queued and not isinstance(event, Tick):
            self._plan_queued()
        return self._commands

    def next_deadline(self) -> float | None:
        """When a Tick is due at the latest."""
        return self._deadlines.next()

    @property
    def view(self) -> ClusterView:
        """The workers, as routers see them."""
        return self.workers.view

    @property
    def queue_depth(self) -> int:
        """Accepted requests that have not ended."""
        return len(self._requests)

    @property
    def num_queued(self) -> int:
        """Of those, the ones that wait for a plan."""
        return len(self._queued)

    @property
    def num_open_legs(self) -> int:
        return len(self._legs.book)

    def snapshot(self) -> ClusterSnapshot:
        """The cluster at the time of the last event."""
        workers, requests = self.view.workers.values(), self._requests.values()
        fit = self.view.step_model.fit if self.view.step_model is not None else None
        return take_snapshot(self._now, workers, requests, self.counters, len(self._legs.book), fit)

    # ---- requests

    def _arrived(self, event: RequestArrived) -> None:
        request = event.request
        assert request.request_id not in self._requests, f"request id {request.request_id} is in use"
        tracked = TrackedRequest(request, request.strategy or self.config.strategy, self._now)
        self._requests[request.request_id] = tracked
        self.counters.requests += 1
        self.counters.prompt_tokens += len(request.prompt_token_ids)
        self._start_attempt(tracked)

    def _start_attempt(self, tracked: TrackedRequest) -> None:
        """Asks the router for a plan and opens its first leg; without a plan the request waits."""
        fallback = tracked.attempt + 1 >= NUM_FREE_ATTEMPTS
        strategy = Strategy.COLLOCATED if fallback else tracked.strategy
        decision = self.router.plan(tracked.request, strategy, len(tracked.output), self.view, tracked.avoid, self._now)
        if decision is None:
            tracked.enter(RequestState.QUEUED, self._now)
            self._queued.append(tracked.request.request_id)
            self._deadlines.add(self._now + self.config.queue_timeout_s, Wait.PLAN, leg=tracked.leg)
            return
        if decision.refused:
            tracked.decision = decision
            self._finish(tracked, FinishReason.REFUSED, decision.reason)
            return
        planned = self._handoffs.without_circle(decision)
        if planned is not decision:
            self.counters.count(self.counters.fallbacks, "circle")
        tracked.begin_attempt(planned)
        fell_back = strategy is Strategy.DISAGGREGATED or strategy is not tracked.strategy
        self.counters.count_attempt(planned.chosen.path, tracked.attempt, fell_back)
        chosen, output = planned.chosen, tuple(tracked.output)
        if chosen.path == "collocated":
            self._legs.open(tracked, LegKind.LOCAL, chosen.decode_worker, self._now)
            self._send(chosen.decode_worker, RunLocal(tracked.leg, tracked.planned, output))
            tracked.enter(RequestState.LOCAL, self._now, f"on {chosen.decode_worker}")
        else:
            self._handoffs.open(tracked.request.request_id, chosen.prefill_worker, chosen.decode_worker)
            self._legs.open(tracked, LegKind.DECODE, chosen.decode_worker, self._now)
            self._send(chosen.decode_worker, Reserve(tracked.leg, tracked.planned, output))
            tracked.enter(RequestState.RESERVING, self._now, f"on {chosen.decode_worker}")
            self._deadlines.add(self._now + self.config.reserve_timeout_s, Wait.RESERVE, leg=tracked.leg)

    def _plan_queued(self) -> None:
        waiting, self._queued = self._queued, deque()
        for request_id in waiting:
            tracked = self._requests.get(request_id)
            if tracked is not None and tracked.state is RequestState.QUEUED:
                self._start_attempt(tracked)

    def _retry(self, tracked: TrackedRequest, why: str, avoid: str | None = None) -> None:
        """Closes the current attempt and starts the next, or fails the request when it has had its share."""
        tracked.last_error = why
        if avoid is not None:
            tracked.avoid.add(avoid)
        self._abort_legs(tracked)
        if (reason := tracked.request.end_of(tracked.output)) is not None:
            self._finish(tracked, reason)  # only the word that it was the end is lost
        elif tracked.attempt + 1 >= self.config.max_attempts:
            self._finish(tracked, FinishReason.ERROR, why)
        else:
            self._start_attempt(tracked)

    def _finish(self, tracked: TrackedRequest, reason: FinishReason, error: str | None = None) -> None:
        """The only place where a request ends. Its legs close later, when their workers say so."""
        self._abort_legs(tracked)
        tracked.enter(RequestState.FINISHED, self._now, reason.value)
        del self._requests[tracked.request.request_id]
        self.counters.count(self.counters.finished, reason.value)
        self.router.finished(tracked.request, len(tracked.output), reason, self._now)
        self._commands.append(FinishRequest(tracked.request.request_id, reason, tracked.report(self._now), error))

    # ---- legs

    def _abort_legs(self, tracked: TrackedRequest) -> None:
        self._handoffs.close(tracked.request.request_id)
        self._commands += self._legs.abort(tracked.legs, self._now)

    def _tracked(self, entry: OpenLeg | None) -> TrackedRequest | None:
        """The unfinished request whose current attempt this leg belongs to."""
        tracked = self._requests.get(entry.leg.request_id) if entry is not None else None
        return tracked if tracked is not None and entry in tracked.legs else None

    # ---- messages

    def _on_message(self, event: WorkerMessage) -> None:
        worker = self.workers.current(event.worker_id, event.incarnation)
        if worker is None:
            return  # of an earlier incarnation
        self.workers.heard(worker, self._now)
        match event.message:
            case Hello():
                self.workers.hello(worker, event.message)
                self._await_heartbeat(worker)
            case Reserved():
                self._reserved(worker, event.message)
            case TokensOut(deltas=deltas):
                for delta in deltas:
                    self._tokens(worker, delta)
            case KvPushed():
                self._kv_pushed(worker, event.message)
            case LegEnded():
                self._leg_ended(worker, event.message)
            case Heartbeat():
                self._heartbeat(worker, event.message)

    def _reserved(self, worker: WorkerView, message: Reserved) -> None:
        entry = self._legs.book.get(worker.worker_id, worker.incarnation, message.leg)
        tracked = self._tracked(entry)
        if entry is None or tracked is None or tracked.state is not RequestState.RESERVING:
            return
        prefiller = self.workers[tracked.decision.chosen.prefill_worker]
        if not prefiller.ready:
            self._retry(tracked, f"{prefiller.worker_id} was lost before the prefill began")
            return
        self._legs.open(tracked, LegKind.PREFILL, prefiller.worker_id, self._now, fills=entry)
        self._send(prefiller.worker_id, tracked.prefill(message, worker.worker_id, worker.incarnation))
        tracked.enter(RequestState.PREFILLING, self._now, f"on {prefiller.worker_id}")

    def _tokens(self, worker: WorkerView, delta: TokenDelta) -> None:
        entry = self._legs.book.get(worker.worker_id, worker.incarnation, delta.leg)
        tracked = self._tracked(entry)
        if entry is None or tracked is None:
            return
        expected = len(tracked.output)
        if delta.first_index > expected:
            self._retry(tracked, f"tokens {expected}..{delta.first_index - 1} from {worker.worker_id} were lost")
            return
        news = tracked.news_of(delta)
        if news is None:
            return  # a duplicate
        delta = news
        tracked.take_tokens(delta.token_ids, self._now)
        self.counters.output_tokens += len(delta.token_ids)
        self.workers.leg_sampled(entry, len(delta.token_ids), self._now)
        self._commands.append(EmitTokens(tracked.request.request_id, delta))
        if tracked.state is RequestState.PREFILLING:
            self._start_decode_if_ready(tracked)

    def _kv_pushed(self, worker: WorkerView, message: KvPushed) -> None:
        entry = self._legs.book.get(worker.worker_id, worker.incarnation, message.leg)
        tracked = self._tracked(entry)
        if tracked is None or tracked.state is not RequestState.PREFILLING or tracked.pushed is not None:
            return
        tracked.pushed = message
        self.counters.handoffs += 1
        self.counters.transfer_bytes += message.num_bytes
        self.counters.transfer_ms += message.transfer_ms
        self._start_decode_if_ready(tracked)

    def _start_decode_if_ready(self, tracked: TrackedRequest) -> None:
        """Token and fence are both there: the reserved sequence may run."""
        if not tracked.ready_to_start or tracked.pushed is None:
            return
        worker_id = tracked.decision.chosen.decode_worker
        self._send(worker_id, Start(tracked.leg, tracked.output[-1], tracked.pushed.checksum))
        self._handoffs.close(tracked.request.request_id)
        tracked.started_at = self._now
        tracked.enter(RequestState.DECODING, self._now, f"on {worker_id}")

    def _leg_ended(self, worker: WorkerView, message: LegEnded) -> None:
        entry = self._legs.book.get(worker.worker_id, worker.incarnation, message.leg)
        if entry is None:
            return
        tracked = self._tracked(entry)
        self._commands += self._legs.close(entry, self._now)
        if tracked is None:
            return
        tracked.take_times(entry.kind, message.times)
        if message.error is not None or message.reason is FinishReason.ERROR:
            self._retry(tracked, message.error or f"{worker.worker_id} failed", avoid=worker.worker_id)
        elif message.reason in (FinishReason.STOP, FinishReason.LENGTH):
            if message.num_output_tokens is not None and message.num_output_tokens != len(tracked.output):
                self._retry(tracked, f"the last tokens from {worker.worker_id} were lost")
            else:
                self._finish(tracked, message.reason)
        elif not (entry.kind is LegKind.PREFILL and tracked.state is RequestState.DECODING):
            self._retry(tracked, f"{worker.worker_id} ended its part early")

    # ---- workers

    def _heartbeat(self, worker: WorkerView, heartbeat: Heartbeat) -> None:
        worker.stats = heartbeat.stats
        if (model := self.workers.view.step_model) is not None:
            model.learn(heartbeat.steps)
        found = reconcile(self._legs.book, worker, heartbeat, self._now, self.config.reconcile_grace_s)
        self._commands += found.aborts
        for entry in found.missing:
            if (tracked := self._tracked(entry)) is None:
                continue  # its abort waits for its writer's end
            if entry.kind is LegKind.PREFILL and tracked.state is RequestState.DECODING:
                self._commands += self._legs.abort([entry], self._now)  # only the word that it ended is lost
            else:
                self._retry(tracked, f"{worker.worker_id} no longer knows its part")
        patience = self.config.reconcile_grace_s + heartbeat.loop_age_s
        for entry in found.unstarted:
            tracked = self._tracked(entry)
            if tracked is not None and tracked.started_at is not None and self._now - tracked.started_at > patience:
                self._send(worker.worker_id, Start(entry.leg, tracked.output[-1]))

    def _worker_lost(self, event: WorkerLost) -> None:
        worker = self.workers.current(event.worker_id, event.incarnation)
        if worker is None:
            return
        worker.ready = False
        self.counters.worker_losses += 1
        lost = self._legs.book.of_worker(event.worker_id, event.incarnation)
        affected = [t for entry in lost if (t := self._tracked(entry)) is not None]
        affected += [t for t in self._requests.values() if t.waits_to_prefill_on(event.worker_id) and t not in affected]
        for entry in lost:
            if entry.is_open:
                self._commands += self._legs.close(entry, self._now)
        for tracked in affected:
            self._retry(tracked, f"{event.worker_id} was lost")

    def _await_heartbeat(self, worker: WorkerView) -> None:
        when = self.workers.heard_at(worker) + self.config.heartbeat_timeout_s
        self._deadlines.add(when, Wait.HEARTBEAT, worker_id=worker.worker_id, incarnation=worker.incarnation)

    def _give_up(self, worker: WorkerView, why: str) -> None:
        """Asks for a restart, once; WorkerLost follows when the process is gone."""
        if worker.ready:
            worker.ready = False
            self._commands.append(RestartWorker(worker.worker_id, worker.incarnation, why))

    # ---- deadlines

    def _expired(self, deadline: Deadline) -> None:
        """A wait has ended. Most were answered long ago; then nothing happens."""
        if deadline.wait in (Wait.PLAN, Wait.RESERVE):
            tracked = self._requests.get(deadline.leg.request_id) if deadline.leg is not None else None
            if tracked is not None and tracked.leg == deadline.leg:
                self._request_waited(tracked, deadline.wait)
        else:
            worker = self.workers.current(deadline.worker_id, deadline.incarnation)
            if worker is not None:
                self._worker_waited(worker, deadline)

    def _request_waited(self, tracked: TrackedRequest, wait: Wait) -> None:
        if wait is Wait.PLAN and tracked.state is RequestState.QUEUED:
            self._finish(tracked, FinishReason.ERROR, tracked.last_error or "no worker was ready to take the request")
        elif wait is Wait.RESERVE and tracked.state is RequestState.RESERVING:
            worker_id = tracked.decision.chosen.decode_worker
            self._retry(tracked, f"{worker_id} had no blocks to reserve in time", avoid=worker_id)

    def _worker_waited(self, worker: WorkerView, deadline: Deadline) -> None:
        if deadline.wait is Wait.ABORT and deadline.leg is not None:
            if self._legs.book.get(worker.worker_id, worker.incarnation, deadline.leg) is not None:
                self._give_up(worker, "it did not end an aborted request in time")
        elif worker.ready and self._now - self.workers.heard_at(worker) >= self.config.heartbeat_timeout_s:
            self._give_up(worker, "it has been silent for too long")
        elif worker.ready:
            self._await_heartbeat(worker)

    # ---- small things

    def _send(self, worker_id: str, message: RunLocal | Reserve | Prefill | Start) -> None:
        self._commands.append(Send(worker_id, self.workers[worker_id].incarnation, message))
