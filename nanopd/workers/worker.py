"""A worker: messages in, engine steps, KV pushes, messages out. Knows no sockets: whoever runs it moves ``outbox`` to the controller.

Every leg ends with exactly one LegEnded, which promises that nothing of the leg can write any more, here or in a peer's pool.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from nanopd.clock import Clock
from nanopd.engine import ComputedRange, EndedSeq, Engine, Reservation, SeqOutput, StepReport
from nanopd.errors import InvalidRequestError, TransferError
from nanopd.kv_transfer.transport import KvSender, PoolHandle
from nanopd.messages import (
    Abort,
    FromWorker,
    Heartbeat,
    KvPushed,
    Leg,
    LegEnded,
    LegState,
    PeerLost,
    PeerPool,
    Prefill,
    Reserve,
    Reserved,
    RunLocal,
    Start,
    StepTiming,
    TokenDelta,
    TokensOut,
    ToWorker,
)
from nanopd.request import FinishReason
from nanopd.workers.handoff import Handoff, handoff_of_push
from nanopd.workers.legs import OpenLeg, seq_id_of

logger = logging.getLogger(__name__)

MAX_STEPS_PER_HEARTBEAT = 64


class Worker:
    """See the module. Single-threaded; ``handle`` and ``step`` never wait."""

    def __init__(
        self,
        engine: Engine,
        sender: KvSender,
        clock: Clock,
        *,
        block_size: int,
        push_timeout_s: float,
        checksum: Callable[[Sequence[int]], int] | None = None,
    ) -> None:
        """``checksum`` of blocks of this worker's pool: when given, hand-offs are checked end to end."""
        self.engine = engine
        self.outbox: list[FromWorker] = []
        self.say_now: Callable[[], None] = lambda: None  # called when the outbox should not wait for the end of a step
        self._sender = sender
        self._clock = clock
        self._block_size = block_size
        self._push_timeout_s = push_timeout_s
        self._checksum = checksum
        self._legs: dict[str, OpenLeg] = {}  # by seq_id
        self._pools: dict[tuple[str, int], PoolHandle] = {}  # by worker id and incarnation
        self._steps: deque[StepTiming] = deque(maxlen=MAX_STEPS_PER_HEARTBEAT)
        self._inbox_read_at = clock.now()

    # ---- the door

    @property
    def has_work(self) -> bool:
        """Whether ``step`` should be called again at once."""
        return self.engine.has_work

    @property
    def is_pushing(self) -> bool:
        """Whether pushes are in flight: ``step`` should be called again soon."""
        return any(not handoff.is_settled for _, handoff in self._handoffs())

    def handle(self, message: ToWorker) -> None:
        """Takes one message. Repeated and outdated ones are ignored."""
        match message:
            case RunLocal(leg=leg):
                self._open(OpenLeg(leg), message, self.engine.run_local)
            case Reserve(leg=leg):
                self._open(OpenLeg(leg), message, self.engine.reserve)
            case Prefill():
                self._prefill(message)
            case Start():
                self._start(message)
            case Abort(leg=leg):
                self._abort(leg)
            case PeerPool(worker_id=worker_id, incarnation=incarnation, handle=handle):
                self._pools[worker_id, incarnation] = PoolHandle(**handle)  # type: ignore[arg-type]
                self._meet(self._pools[worker_id, incarnation])
            case PeerLost():
                self._peer_lost(message)

    def step(self) -> None:
        """One engine step and a look at the pushes. The inbox has just been read."""
        self._inbox_read_at = self._clock.now()
        self._take(self.engine.step())
        self.look_at_pushes()

    def look_at_pushes(self) -> None:
        """Moves hand-offs on whose pushes have ended. Also called while a step runs, so that a fence does not wait for its end."""
        for result in self._sender.poll():
            leg = self._legs.get(handoff_of_push(result.push_id))
            if leg is None or leg.handoff is None or not leg.handoff.ended(result):
                continue
            leg.handoff.progress_at = self._clock.now()
            if result.error is not None:
                self._break_off(leg, FinishReason.ERROR, f"the KV push failed: {result.error}")
            self._settle(leg)
        self._check_pushes()

    def skipped(self, timings: Sequence[StepTiming]) -> None:
        """For simulations: the engine was brought forward by these steps, of which nobody else need hear."""
        self._steps.extend(timings)
        self._inbox_read_at = self._clock.now()

    def heartbeat(self) -> Heartbeat:
        """The worker's load, its steps since the last heartbeat, and the legs it has open."""
        steps = tuple(self._steps)
        self._steps.clear()
        legs = tuple((leg.leg, leg.state) for leg in self._legs.values())
        return Heartbeat(self.engine.stats(), steps, legs, loop_age_s=self._clock.now() - self._inbox_read_at)

    # ---- messages

    def _open(self, leg: OpenLeg, message: RunLocal | Reserve | Prefill, admit: Callable[..., None]) -> None:
        """Notes a new leg and hands it to the engine; one that is open already is left alone."""
        if leg.seq_id in self._legs:
            return
        try:
            admit(leg.seq_id, message.request, message.output_token_ids)
        except InvalidRequestError as error:
            self._refuse(leg.leg, str(error))
        else:
            self._legs[leg.seq_id] = leg

    def _prefill(self, message: Prefill) -> None:
        request, leg = message.request, message.leg
        destination = self._pools.get((message.destination_worker, message.destination_incarnation))
        if destination is None:
            self._refuse(leg, f"the KV pool of {message.destination_worker} is not known here")
            return
        if destination.block_size != self._block_size:
            theirs, ours = destination.block_size, self._block_size
            self._refuse(leg, f"{message.destination_worker} has blocks of {theirs} tokens, this worker of {ours}")
            return
        handoff = Handoff(
            seq_id_of(leg),
            destination,
            message.block_ids,
            first_block=message.num_resident_tokens // self._block_size,
            num_tokens=len(request.prompt_token_ids) + len(message.output_token_ids),
            block_size=self._block_size,
        )
        if (problem := handoff.mismatch()) is not None:
            self._refuse(leg, problem)
        else:
            self._open(OpenLeg(leg, handoff=handoff), message, self.engine.prefill)

    def _start(self, message: Start) -> None:
        leg = self._legs.get(seq_id_of(message.leg))
        if leg is None or leg.state is not LegState.RESERVED or leg.ending is not None:
            return
        if self._checksum is not None and message.checksum not in (None, self._checksum(leg.reserved_ids)):
            self._break_off(leg, FinishReason.ERROR, "the KV that arrived differs from the KV that was sent (checksum)")
            return
        leg.state = LegState.RUNNING
        self.engine.start(leg.seq_id, message.first_token_id)

    def _abort(self, key: Leg) -> None:
        leg = self._legs.get(seq_id_of(key))
        if leg is None:
            self.outbox.append(LegEnded(key, None))
            return
        self._break_off(leg, FinishReason.ABORT)
        self._settle(leg)

    def _peer_lost(self, message: PeerLost) -> None:
        destination = self._pools.pop((message.worker_id, message.incarnation), None)
        if destination is None:
            return
        for leg, handoff in self._handoffs():
            if handoff.destination == destination:
                self._break_off(leg, FinishReason.ERROR, f"{message.worker_id} was lost")
                self._settle(leg)
        self._sender.forget(destination)

    def _meet(self, pool: PoolHandle) -> None:
        try:
            self._sender.meet(pool)
        except TransferError as error:  # pushes to it will say so again, each to its own request
            logger.warning("%s", error)

    # ---- what the engine reports

    def _take(self, report: StepReport) -> None:
        deltas = tuple(
            TokenDelta(
                self._legs[out.seq_id].leg,
                out.first_index,
                out.token_ids,
                out.logprobs,
                out.prompt_logprobs,
                out.hypotheses,
            )
            for out in report.outputs
            if out.token_ids and out.seq_id in self._legs
        )
        if deltas:
            self.outbox.append(TokensOut(deltas))
            if report.computed:  # a first token does not wait for the push of its prompt
                self.say_now()
        for out in report.outputs:
            self._note_output(out)
        for reservation in report.reserved:
            self._reserved(reservation)
        for computed in report.computed:
            self._push(computed)
        for ended in report.ended:
            self._engine_ended(ended)
        if report.timing is not None:
            self._steps.append(report.timing)

    def _reserved(self, reservation: Reservation) -> None:
        leg = self._legs[reservation.seq_id]
        leg.state, leg.reserved_ids = LegState.RESERVED, tuple(reservation.block_ids)
        self.outbox.append(Reserved(leg.leg, leg.reserved_ids, reservation.num_resident_tokens))

    def _engine_ended(self, ended: EndedSeq) -> None:
        leg = self._legs.get(ended.seq_id)
        if leg is None:
            return
        leg.waits_for_engine = False
        if leg.ending is None:
            reason = FinishReason.ABORT if ended.error is None else FinishReason.ERROR
            leg.ending = LegEnded(leg.leg, reason, ended.error, leg.times)
            self._cancel_pushes(leg)
        self._settle(leg)

    def _note_output(self, out: SeqOutput) -> None:
        leg = self._legs.get(out.seq_id)
        if leg is None or leg.ending is not None:
            return
        leg.times = out.times
        if leg.handoff is not None:
            leg.first_token_at = self._clock.now()
            leg.state = LegState.PUSHING
        if out.finish_reason is not None:
            num_output_tokens = out.first_index + len(out.token_ids)
            leg.ending = LegEnded(leg.leg, out.finish_reason, None, out.times, num_output_tokens)
            self._cancel_pushes(leg)  # a request that ends with its first token needs no hand-off
            self._settle(leg)

    # ---- hand-off

    def _push(self, computed: ComputedRange) -> None:
        leg = self._legs.get(computed.seq_id)
        if leg is None or leg.handoff is None or leg.ending is not None:
            return
        handoff = leg.handoff
        push = handoff.next_push(computed.end, computed.block_table)
        if push is not None:
            handoff.progress_at = self._clock.now()
            try:
                self._sender.push(push.push_id, handoff.destination, push.source_ids, push.destination_ids)
            except TransferError as error:
                handoff.in_flight.discard(push.push_id)
                self._break_off(leg, FinishReason.ERROR, str(error))
        self._settle(leg)

    def _check_pushes(self) -> None:
        """Breaks off hand-offs that make no progress. Raises TransferError if even their cancellation is not answered."""
        now = self._clock.now()
        for leg, handoff in self._handoffs():
            if handoff.is_settled or now - handoff.progress_at < self._push_timeout_s:
                continue
            if leg.ending is not None:  # nobody knows whether it still writes: only the end of this process makes sure
                raise TransferError(f"a KV push was cancelled and did not end within {self._push_timeout_s:.0f} s")
            handoff.progress_at = now
            self._break_off(leg, FinishReason.ERROR, f"the KV push made no progress for {self._push_timeout_s:.0f} s")
            self._settle(leg)

    def _handoffs(self) -> list[tuple[OpenLeg, Handoff]]:
        return [(leg, leg.handoff) for leg in self._legs.values() if leg.handoff is not None]

    def _cancel_pushes(self, leg: OpenLeg) -> None:
        if leg.handoff is not None:
            for push_id in leg.handoff.in_flight:
                self._sender.cancel(push_id)

    def _break_off(self, leg: OpenLeg, reason: FinishReason, error: str | None = None) -> None:
        """Begins the end of a leg that did not finish by itself; the engine's EndedSeq goes on with it."""
        if leg.ending is None:
            leg.ending = LegEnded(leg.leg, reason, error, leg.times)
            leg.waits_for_engine = True
            self._cancel_pushes(leg)
            self.engine.abort(leg.seq_id)

    def _settle(self, leg: OpenLeg) -> None:
        """Moves a leg on if it can: raises the fence of a complete hand-off, closes a leg whose end is due."""
        handoff = leg.handoff
        if leg.ending is None and handoff is not None and handoff.is_complete and leg.first_token_at is not None:
            self.outbox.append(self._fence(leg.leg, handoff, leg.first_token_at))
            leg.ending = LegEnded(leg.leg, None, None, leg.times)
        if leg.ending is None or (handoff is not None and not handoff.is_settled):
            return
        if handoff is not None and not leg.is_released:
            leg.is_released = True  # no push reads the blocks any more
            self.engine.release(leg.seq_id)
        if leg.seq_id in self._legs and not leg.waits_for_engine:
            del self._legs[leg.seq_id]
            self.outbox.append(leg.ending)

    def _fence(self, leg: Leg, handoff: Handoff, first_token_at: float) -> KvPushed:
        return KvPushed(
            leg,
            num_blocks=len(handoff.source_ids),
            num_bytes=handoff.num_bytes,
            transfer_ms=handoff.transfer_ms,
            exposed_ms=(self._clock.now() - first_token_at) * 1e3,
            transport=handoff.transport or handoff.destination.transport,
            checksum=self._checksum(handoff.source_ids) if self._checksum is not None else None,
        )

    def _refuse(self, leg: Leg, why: str) -> None:
        self.outbox.append(LegEnded(leg, FinishReason.ERROR, why))
