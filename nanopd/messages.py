"""Typed messages between the controller and the workers (msgspec structs as msgpack; nothing executes on receipt).

One *leg* is one worker's part in one attempt at a request. A leg is opened by RunLocal, Reserve or Prefill and ends with exactly one LegEnded,
whatever happens; only then may the other side's blocks it could still write into be reused. ``attempt`` numbers the plans tried for a
request; messages of an earlier attempt, or of an earlier incarnation of a worker, are ignored.

::

    controller                     decode worker                prefill worker
        |--- Reserve ------------------>|
        |<-- Reserved(block ids) -------|
        |--- Prefill(destination, ids) ------------------------------->|   chunks: compute, push each piece into the reserved blocks
        |<-- TokensOut(first token) -----------------------------------|   goes to the client at once
        |<-- KvPushed (the fence) -------------------------------------|
        |<-- LegEnded -------------------------------------------------|   its blocks are free
        |--- Start(first token) ------->|
        |<-- TokensOut ... -------------|
        |<-- LegEnded(stop | length) ---|
"""

from enum import StrEnum

import msgspec

from nanopd.request import FinishReason, Hypothesis, Request, TokenLogprobs


class Leg(msgspec.Struct, frozen=True):
    """Which leg a message is about."""

    request_id: str
    attempt: int


class _Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages: tagged with the class name on the wire."""


# ---- controller -> worker


class RunLocal(_Message, frozen=True):
    """Prefill and decode this request here. ``output_token_ids``: already generated (and streamed) by an attempt that was lost."""

    leg: Leg
    request: Request
    output_token_ids: tuple[int, ...] = ()


class Reserve(_Message, frozen=True):
    """Allocate blocks for prompt + output tokens; their KV will be pushed by another worker. Answer: Reserved, or LegEnded with an error."""

    leg: Leg
    request: Request
    output_token_ids: tuple[int, ...] = ()


class Prefill(_Message, frozen=True):
    """Compute the prompt, sample one token, push the KV of blocks from ``num_resident_tokens`` on into ``block_ids`` of ``destination``."""

    leg: Leg
    request: Request
    destination_worker: str
    destination_incarnation: int
    block_ids: tuple[int, ...]
    num_resident_tokens: int  # a multiple of the block size: the destination's prefix cache holds these
    output_token_ids: tuple[int, ...] = ()


class Start(_Message, frozen=True):
    """All KV is in the reserved blocks: go on decoding, ``first_token_id`` being the first input."""

    leg: Leg
    first_token_id: int
    checksum: int | None = None  # of KvPushed


class Abort(_Message, frozen=True):
    """End this leg. Answer: LegEnded, as soon as nothing of the leg can write any more. An unknown leg is answered at once."""

    leg: Leg


class PeerPool(_Message, frozen=True):
    """A worker's KV pool, as a sender needs it (fields of kv_transfer.PoolHandle)."""

    worker_id: str
    incarnation: int
    handle: dict[str, str | int]


class PeerLost(_Message, frozen=True):
    """A worker is gone: drop the mapping of its pool; its pushes end in an error."""

    worker_id: str
    incarnation: int


class Shutdown(_Message, frozen=True):
    """Stop. Requests still running are dropped: the controller has drained before."""


# ---- worker -> controller


class Hello(_Message, frozen=True):
    """The worker is ready."""

    worker_id: str
    incarnation: int
    pid: int
    num_blocks: int
    block_size: int
    max_model_len: int
    kv_bytes_per_token: int
    pool: dict[str, str | int]
    device: str = "cpu"


class Reserved(_Message, frozen=True):
    """Blocks are set aside. ``block_ids`` are those to be written, in prompt order, from ``num_resident_tokens`` on."""

    leg: Leg
    block_ids: tuple[int, ...]
    num_resident_tokens: int


class TokenDelta(msgspec.Struct, frozen=True):
    """New tokens of one leg. ``first_index``: index of the first of them in the request's output."""

    leg: Leg
    first_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None  # with the first token, when asked for
    hypotheses: tuple[Hypothesis, ...] = ()  # of a beam search, best first: token_ids are those of the first


class TokensOut(_Message, frozen=True):
    """What one step produced, all legs together."""

    deltas: tuple[TokenDelta, ...]


class LegTimes(msgspec.Struct, frozen=True):
    """Where a leg's time went, milliseconds."""

    queue_ms: float = 0.0  # from arrival at the worker to its first scheduled step
    prefill_ms: float = 0.0  # from the first scheduled step to the first token
    decode_ms: float = 0.0  # from the first token (or Start) to the end
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    num_draft_tokens: int = 0  # guessed and verified (speculative decoding)
    num_accepted_tokens: int = 0  # of those, the ones that were right


class KvPushed(_Message, frozen=True):
    """The last byte of the leg's KV is in the destination's blocks."""

    leg: Leg
    num_blocks: int
    num_bytes: int
    transfer_ms: float  # time the transport was busy
    exposed_ms: float  # from the first token to the fence: what overlap did not hide
    transport: str
    checksum: int | None = None  # of the blocks in prompt order, when hand-offs are checked end to end


class LegEnded(_Message, frozen=True):
    """The leg's last message. ``reason`` None: a prefill leg whose push is done, or an answer to Abort for an unknown leg."""

    leg: Leg
    reason: FinishReason | None
    error: str | None = None
    times: LegTimes = LegTimes()
    num_output_tokens: int | None = (
        None  # of the request so far, when ``reason`` is STOP or LENGTH: shows whether a TokensOut was lost
    )


class WorkerStats(msgspec.Struct, frozen=True):
    """A worker's load."""

    num_running: int = 0
    num_waiting: int = 0
    num_reserved: int = 0
    num_free_blocks: int = 0  # free or evictable
    num_cached_blocks: int = 0
    num_waiting_tokens: int = 0  # prompt tokens not yet computed
    num_context_tokens: int = 0  # KV tokens of running sequences
    step_ms: float = 0.0  # moving median of recent steps
    num_steps: int = 0
    num_preemptions: int = 0
    prefix_hit_tokens: int = 0
    prefix_query_tokens: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


class StepTiming(msgspec.Struct, frozen=True):
    """One measured step, for the cost model: features and milliseconds."""

    num_prefill_tokens: int
    prefill_attention: float  # sum over chunks of q * k (query tokens times mean keys seen)
    num_decodes: int
    decode_context: int  # sum of decode context lengths
    step_ms: float
    num_prefills: int = 0  # prompt chunks


class LegState(StrEnum):
    """Where a leg stands, for reconciliation."""

    RUNNING = "running"  # waiting, prefilling or decoding
    RESERVED = "reserved"  # decode side: waiting for Start
    PUSHING = "pushing"  # prefill side: computed, the push has not ended


class Heartbeat(_Message, frozen=True):
    """Sent at a steady interval, also while a long step runs.

    ``legs`` are the open legs as the worker's loop saw them ``loop_age_s`` ago, after it had read its inbox: a leg the controller believes open
    since before then and that is not listed has been lost; a listed leg the controller does not know is aborted again.
    """

    stats: WorkerStats
    steps: tuple[StepTiming, ...] = ()
    legs: tuple[tuple[Leg, LegState], ...] | None = None  # None: not reported this time
    loop_age_s: float = 0.0


class Failed(_Message, frozen=True):
    """The worker cannot go on (out of memory, bad model); it exits after this."""

    error: str


ToWorker = RunLocal | Reserve | Prefill | Start | Abort | PeerPool | PeerLost | Shutdown
FromWorker = Hello | Reserved | TokensOut | KvPushed | LegEnded | Heartbeat | Failed

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def encode(message: ToWorker | FromWorker) -> bytes:
    return _encoder.encode(message)


def decode_to_worker(data: bytes) -> ToWorker:
    """Raises msgspec.ValidationError on anything that is not such a message."""
    return _to_worker.decode(data)


def decode_from_worker(data: bytes) -> FromWorker:
    """Raises msgspec.ValidationError on anything that is not such a message."""
    return _from_worker.decode(data)
