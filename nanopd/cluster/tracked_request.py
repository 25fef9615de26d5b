r"""One accepted request, from arrival to its only end.

::

    QUEUED --> LOCAL -----------------------------------------> FINISHED
       \-----> RESERVING --> PREFILLING --> DECODING ----------/
    any unfinished state --> (a leg is lost) --> next attempt, from the tokens already streamed
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from nanopd.cluster.events import RequestReport
from nanopd.cluster.leg_book import LegKind, OpenLeg
from nanopd.messages import KvPushed, Leg, LegTimes, Prefill, Reserved, TokenDelta
from nanopd.request import Request, Strategy
from nanopd.router.plan import Candidate, Decision

NOT_PLANNED = Decision(Candidate("", ""), "no worker was ready", "none")


class RequestState(StrEnum):
    """What the current attempt is doing."""

    QUEUED = "queued"  # no worker can take it yet
    LOCAL = "local"
    RESERVING = "reserving"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    FINISHED = "finished"


@dataclass(slots=True)
class TrackedRequest:
    """Bookkeeping of one request. ``output`` holds the tokens already handed to the client, over all attempts."""

    request: Request
    strategy: Strategy
    arrived: float
    state: RequestState = RequestState.QUEUED
    attempt: int = -1  # of the current plan; -1 before the first
    decision: Decision = NOT_PLANNED
    output: list[int] = field(default_factory=list)
    legs: list[OpenLeg] = field(default_factory=list)  # of the current attempt
    sampled_in_attempt: int = 0
    pushed: KvPushed | None = None  # the current attempt's fence
    started_at: float | None = None  # when Start was sent
    first_token_at: float | None = None
    last_token_at: float | None = None
    prefill_times: LegTimes = LegTimes()
    decode_times: LegTimes = LegTimes()
    avoid: set[str] = field(default_factory=set)  # workers that refused or failed this request
    last_error: str = ""
    timeline: list[tuple[float, str]] = field(default_factory=list)

    @property
    def leg(self) -> Leg:
        """The current attempt's key; both legs of a hand-off carry it."""
        return Leg(self.request.request_id, self.attempt)

    @property
    def ready_to_start(self) -> bool:
        """Whether the decode worker may go on: the first token and the fence have both arrived."""
        return self.state is RequestState.PREFILLING and self.pushed is not None and self.sampled_in_attempt > 0

    def waits_to_prefill_on(self, worker_id: str) -> bool:
        """Whether the reservation is not answered yet and ``worker_id`` is to compute the prompt."""
        return self.state is RequestState.RESERVING and self.decision.chosen.prefill_worker == worker_id

    def news_of(self, delta: TokenDelta) -> TokenDelta | None:
        """The part of ``delta`` that the client does not have; None if it has all. Nothing before it may be missing."""
        expected = len(self.output)
        known = expected - delta.first_index
        if known >= len(delta.token_ids):
            return None
        if known or (expected and delta.prompt_logprobs is not None):
            return TokenDelta(delta.leg, expected, delta.token_ids[known:], delta.logprobs[known:])
        return delta

    def enter(self, state: RequestState, now: float, note: str = "") -> None:
        """Moves to ``state`` and writes it into the timeline."""
        self.state = state
        self.timeline.append((now - self.arrived, f"{state.value} {note}".rstrip()))

    @property
    def planned(self) -> Request:
        """The request as its workers get it: with the place in their queues that the plan gives it."""
        priority = self.decision.priority
        return self.request if priority is None else replace(self.request, priority=priority)

    def begin_attempt(self, decision: Decision) -> None:
        self.attempt += 1
        self.decision = decision
        self.legs = []
        self.sampled_in_attempt = 0
        self.pushed = None
        self.started_at = None

    def prefill(self, reserved: Reserved, decode_worker: str, incarnation: int) -> Prefill:
        """What the prefill worker is told once ``decode_worker`` has set blocks aside."""
        return Prefill(
            leg=reserved.leg,
            request=self.planned,
            destination_worker=decode_worker,
            destination_incarnation=incarnation,
            block_ids=reserved.block_ids,
            num_resident_tokens=reserved.num_resident_tokens,
            output_token_ids=tuple(self.output),
        )

    def take_times(self, kind: LegKind, times: LegTimes) -> None:
        """Notes where a leg's time went."""
        if kind is LegKind.DECODE:
            self.decode_times = times
        else:
            self.prefill_times = times

    def take_tokens(self, token_ids: tuple[int, ...], now: float) -> None:
        """Notes tokens that go to the client."""
        self.output.extend(token_ids)
        self.sampled_in_attempt += len(token_ids)
        if self.first_token_at is None:
            self.first_token_at = now
        self.last_token_at = now

    def report(self, now: float) -> RequestReport:
        """Where the time went."""
        first, last, count = self.first_token_at, self.last_token_at, len(self.output)
        tpot = (last - first) / (count - 1) if first is not None and last is not None and count > 1 else None
        pushed = self.pushed
        return RequestReport(
            decision=self.decision,
            num_prompt_tokens=len(self.request.prompt_token_ids),
            num_output_tokens=count,
            num_attempts=self.attempt + 1,
            ttft_s=None if first is None else first - self.arrived,
            e2e_s=now - self.arrived,
            tpot_s=tpot,
            prefill=self.prefill_times,
            decode=self.decode_times,
            transfer_ms=pushed.transfer_ms if pushed else 0.0,
            transfer_exposed_ms=pushed.exposed_ms if pushed else 0.0,
            transfer_bytes=pushed.num_bytes if pushed else 0,
            transport=pushed.transport if pushed else "",
            timeline=tuple(self.timeline),
        )
