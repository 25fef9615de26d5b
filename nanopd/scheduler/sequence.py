"""One leg of a request as the scheduler sees it.

::

    WAITING --admit--> RUNNING --finish--> FINISHED
       ^                  |
       `-----preempt------'               every state --abort--> FINISHED
    WAITING --admit--> RESERVED --start--> RUNNING                (LegKind.RESERVED: the KV comes from another worker)
    WAITING --admit--> RUNNING --first token--> HELD --release--> FINISHED   (LegKind.PREFILL: the KV goes to another worker)
                          |                      |
                          `-------abort----------+--> DRAINING --release--> FINISHED   (its blocks are being pushed)

Positions of ``token_ids``, ``n = num_computed_tokens`` counting steps still in flight::

    [0, n) KV stored | [n, len(token_ids)) known, to be fed | then num_pending tokens sampled by steps in flight
"""

from array import array
from collections.abc import Sequence as SequenceOf
from enum import Enum, auto

from nanopd.batch import SampleSpec
from nanopd.block_manager import BlockTable
from nanopd.decoding import GuessRecord
from nanopd.errors import InvalidRequestError
from nanopd.messages import LegTimes
from nanopd.request import FinishReason, Request, TokenLogprobs
from nanopd.scheduler.uniform import stream_key


class SeqState(Enum):
    NEW = auto()  # not placed yet
    WAITING = auto()
    RUNNING = auto()
    RESERVED = auto()
    HELD = auto()
    DRAINING = auto()
    FINISHED = auto()


class LegKind(Enum):
    """What this worker is to do for the request."""

    LOCAL = auto()  # prefill and decode
    PREFILL = auto()  # prefill, sample one token, hold the KV
    BEAM = auto()  # the same, for forks to share: nobody outside reads it
    RESERVED = auto()  # receive the KV, then decode

    @property
    def samples_once(self) -> bool:
        return self in (LegKind.PREFILL, LegKind.BEAM)


class Sequence:
    """Token ids, progress and times of one leg. Plain state: the scheduler moves it. Raises InvalidRequestError."""

    __slots__ = (
        "seq_id", "request", "kind", "state", "key", "token_ids", "num_prompt_tokens", "num_initial_outputs", "max_len", "feed_end",
        "stop_ids", "stop_ids_tuple", "min_len", "stream_key", "needs_history", "table", "chain", "num_computed_tokens", "num_in_flight",
        "num_pending", "pending_step", "pending_row", "is_exposed", "prompt_logprobs", "greedy_spec", "arrival_time", "admission_time",
        "prefill_start", "decode_start", "num_cached_tokens", "num_preemptions", "num_draft_tokens", "num_accepted_tokens", "guesses", "times",
    )  # fmt: skip

    def __init__(
        self,
        seq_id: str,
        request: Request,
        kind: LegKind,
        order: int,
        max_model_len: int,
        now: float,
        output_token_ids: SequenceOf[int] = (),
    ) -> None:
        params = request.sampling
        if params.seed is None and not params.is_greedy:
            raise InvalidRequestError(
                f"sampling.seed must be set before {request.request_id!r} reaches a scheduler, got None", "seed"
            )
        if not request.prompt_token_ids:
            raise InvalidRequestError("prompt_token_ids must hold at least one token, got none", "prompt")
        self.seq_id = seq_id
        self.request = request
        self.kind = kind
        self.state = SeqState.NEW
        self.key = (request.priority, order)  # who goes first
        self.token_ids = array("i", request.prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.token_ids.extend(output_token_ids)
        self.num_initial_outputs = len(output_token_ids)
        self.max_len = (
            max_model_len
            if params.max_tokens is None
            else min(self.num_prompt_tokens + params.max_tokens, max_model_len)
        )
        self.feed_end = len(self.token_ids) + 1 if kind.samples_once else self.max_len  # nothing is fed once this long
        self.stop_ids = request.stop_ids
        self.stop_ids_tuple = tuple(sorted(self.stop_ids))
        self.min_len = self.num_prompt_tokens + params.min_tokens
        self.stream_key = stream_key(params.seed or 0)
        self.needs_history = params.needs_history
        self.table: BlockTable | None = None  # None: owns no blocks
        self.chain: list[bytes] = []  # prefix hashes of the leading full blocks, as far as someone asked
        self.num_computed_tokens = 0
        self.num_in_flight = 0  # submitted steps with a slice of this sequence
        self.num_pending = 0  # sampled in flight, not known here yet
        self.pending_step = self.pending_row = -1  # where the last pending token is sampled
        self.is_exposed = False  # blocks of a held prefill were reported: someone may be reading them until release
        wants_prompt_logprobs = (
            params.prompt_logprobs is not None and not output_token_ids and kind is not LegKind.RESERVED
        )
        self.prompt_logprobs: list[TokenLogprobs] | None = [] if wants_prompt_logprobs else None
        self.greedy_spec: SampleSpec | None = None  # what never changes from step to step is built once
        self.arrival_time = now
        self.admission_time: float | None = None
        self.prefill_start: float | None = None
        self.decode_start: float | None = None  # the first token, or start() of a reserved sequence
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.num_draft_tokens = self.num_accepted_tokens = 0  # guessed and verified; guessed right
        self.guesses: GuessRecord | None = None  # once one has been verified
        self.times = LegTimes()

    @property
    def num_tokens(self) -> int:
        """Length of the sequence once the steps in flight have ended."""
        return len(self.token_ids) + self.num_pending

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether prompt positions must still be computed for their log-probabilities (so the prefix cache must not skip them)."""
        return self.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt_tokens - 1

    @property
    def max_cached_tokens(self) -> int:
        """How much of the sequence the prefix cache may stand in for: what samples must compute at least its last position."""
        if self.lacks_prompt_logprobs:
            return 0
        return len(self.token_ids) - (self.kind is not LegKind.RESERVED)

    @property
    def max_draft_tokens(self) -> int:
        """How long a draft may be: with the token drawn after it the sequence is at its longest."""
        return self.feed_end - len(self.token_ids) - 1

    @property
    def is_preemptible(self) -> bool:
        """Nobody outside reads the blocks, so they may be given back and recomputed."""
        return not self.is_exposed

    def num_shareable(self, token_ids: tuple[int, ...]) -> int:
        """How many leading tokens of another sequence have their KV here: as many as were computed if all agree, else none."""
        if self.state not in (SeqState.RUNNING, SeqState.HELD):
            return 0
        num_shared = min(len(token_ids) - 1, self.num_computed_tokens, len(self.token_ids))
        return num_shared if tuple(self.token_ids[:num_shared]) == token_ids[:num_shared] else 0

    # ---- blocks come and go

    def take_over(self, table: BlockTable, chain: list[bytes], num_tokens: int, now: float) -> None:
        """A fork begins with the first ``num_tokens`` tokens computed."""
        self.table, self.chain = table, chain
        self.num_computed_tokens = self.num_cached_tokens = num_tokens
        self.admission_time = self.prefill_start = now

    def received(self, now: float) -> None:
        """The KV of a reserved sequence has come: it decodes from here."""
        self.kind = LegKind.LOCAL
        self.prefill_start = self.decode_start = now
        self.num_computed_tokens = len(self.token_ids)

    def first_sampled(self, now: float) -> tuple[TokenLogprobs, ...] | None:
        """The first token is there: the prompt is computed. Its log-probabilities, if they were asked for."""
        self.decode_start = now
        self.take_times(now)
        return None if self.prompt_logprobs is None else tuple(self.prompt_logprobs)

    def lost_blocks(self) -> None:
        """Preempted: everything is to be computed again."""
        self.table = None
        self.num_computed_tokens = 0
        self.num_preemptions += 1

    # ---- the end

    def finish_reason(self) -> FinishReason | None:
        """Whether the tokens known so far end the request."""
        token_ids = self.token_ids
        if len(token_ids) > self.num_prompt_tokens and token_ids[-1] in self.stop_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(token_ids) >= self.max_len else None

    def take_times(self, now: float) -> LegTimes:
        """Where the leg's time went up to now; kept in ``times``."""
        admission = now if self.admission_time is None else self.admission_time
        prefill = now if self.prefill_start is None else self.prefill_start
        decode = now if self.decode_start is None else self.decode_start
        self.times = LegTimes(
            queue_ms=(admission - self.arrival_time) * 1e3,
            prefill_ms=(decode - prefill) * 1e3,
            decode_ms=(now - decode) * 1e3,
            num_cached_tokens=self.num_cached_tokens,
            num_preemptions=self.num_preemptions,
            num_draft_tokens=self.num_draft_tokens,
            num_accepted_tokens=self.num_accepted_tokens,
        )
        return self.times
