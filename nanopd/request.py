"""What a caller asks for: a ``Request`` with its ``SamplingParams``, and how it can end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from nanopd.errors import InvalidRequestError

MAX_LOGPROBS = 20  # the OpenAI API's bound on top_logprobs


class FinishReason(StrEnum):
    """Why a request ended. The first two are the OpenAI API's words."""

    STOP = "stop"  # an end-of-sequence token, a stop token id or a stop string
    LENGTH = "length"  # max_tokens or the model's context length
    REFUSED = "refused"  # no plan would have kept its objectives, and the cluster is told to refuse such requests
    ABORT = "abort"  # the client went away or asked to stop
    ERROR = "error"


class Strategy(StrEnum):
    """Where the two stages of a request run."""

    COLLOCATED = "collocated"
    DISAGGREGATED = "disaggregated"
    ADAPTIVE = "adaptive"  # the router decides for each request


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn from the logits, and when to stop.

    Order of application: logit_bias, repetition / presence / frequency penalties, suppression of stop tokens before ``min_tokens``; then
    ``temperature``; min_p (relative to the most probable token); top_k; top_p (on what is left, renormalised).
    ``temperature=0`` is greedy (lowest token id wins a tie). ``seed=None`` draws a fresh seed when the request is accepted.
    """

    max_tokens: int | None = 16  # None: up to the context length
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None  # None: off; k: the chosen token and the k most probable, from the raw logits
    prompt_logprobs: int | None = None
    stop: tuple[str, ...] = ()  # matched on text, where detokenisation happens
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _check(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens)
        _check(self.min_tokens >= 0, "min_tokens", "0 or more", self.min_tokens)
        _check(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            "at most max_tokens",
            self.min_tokens,
        )
        _check(0.0 <= self.temperature <= 100.0, "temperature", "between 0 and 100", self.temperature)
        _check(self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        _check(0.0 < self.top_p <= 1.0, "top_p", "in (0, 1]", self.top_p)
        _check(0.0 <= self.min_p <= 1.0, "min_p", "in [0, 1]", self.min_p)
        _check(0.0 < self.repetition_penalty <= 100.0, "repetition_penalty", "in (0, 100]", self.repetition_penalty)
        _check(-2.0 <= self.presence_penalty <= 2.0, "presence_penalty", "in [-2, 2]", self.presence_penalty)
        _check(-2.0 <= self.frequency_penalty <= 2.0, "frequency_penalty", "in [-2, 2]", self.frequency_penalty)
        _check(self.seed is None or 0 <= self.seed < 2**64, "seed", "in [0, 2**64)", self.seed)
        for name, value in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            _check(value is None or 0 <= value <= MAX_LOGPROBS, name, f"between 0 and {MAX_LOGPROBS}", value)
        _check(all(self.stop), "stop", "non-empty strings", self.stop)
        _check(
            all(-100.0 <= bias <= 100.0 for bias in self.logit_bias.values()),
            "logit_bias",
            "values in [-100, 100]",
            self.logit_bias,
        )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def needs_history(self) -> bool:
        """Whether the next token depends on token ids the host must know (so a step cannot be scheduled ahead of it)."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


def _check(ok: bool, name: str, expected: str, got: object) -> None:
    if not ok:
        raise InvalidRequestError(f"{name} must be {expected}, got {got!r}", name)


@dataclass(frozen=True, slots=True)
class Slo:
    """Latency objectives of one request, in milliseconds; None: no objective."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None


EARLY_STOPPING = ("heuristic", "first", "never")


@dataclass(frozen=True, slots=True)
class BeamParams:
    """Beam search instead of sampling; the rules are told in ``decoding.beam_search``. Of SamplingParams only the stop conditions count then."""

    width: int = 4  # beams kept, and hypotheses returned
    length_penalty: float = 1.0  # a hypothesis scores logprob / length ** length_penalty: above 0 favours long ones
    early_stopping: str = "heuristic"  # one of EARLY_STOPPING

    def __post_init__(self) -> None:
        _check(1 <= self.width <= MAX_LOGPROBS, "width", f"between 1 and {MAX_LOGPROBS}", self.width)
        _check(-10.0 <= self.length_penalty <= 10.0, "length_penalty", "in [-10, 10]", self.length_penalty)
        _check(
            self.early_stopping in EARLY_STOPPING,
            "early_stopping",
            f"one of {', '.join(EARLY_STOPPING)}",
            self.early_stopping,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One accepted request: token ids in, at most ``sampling.max_tokens`` token ids out.

    ``sampling.seed`` and ``sampling.max_tokens`` are resolved (not None) before a request reaches a scheduler.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    arrival_time: float = 0.0  # seconds on the controller's clock
    priority: int = 0  # lower runs first
    slo: Slo = Slo()
    tenant: str = ""  # class key of the output-length predictor (API key, system-prompt hash)
    strategy: Strategy | None = None  # None: the server's
    eos_token_ids: tuple[int, ...] = ()
    beam: BeamParams | None = None  # None: sample

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end this request."""
        eos = () if self.sampling.ignore_eos else self.eos_token_ids
        return frozenset(eos).union(self.sampling.stop_token_ids)

    def end_of(self, output_token_ids: Sequence[int]) -> FinishReason | None:
        """Whether these output tokens (the stop token included) are a complete answer, and why."""
        if (
            output_token_ids
            and len(output_token_ids) > self.sampling.min_tokens
            and output_token_ids[-1] in self.stop_ids
        ):
            return FinishReason.STOP
        if self.sampling.max_tokens is not None and len(output_token_ids) >= self.sampling.max_tokens:
            return FinishReason.LENGTH
        return None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one position, from the raw logits (before bias, penalties and temperature)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most probable first


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished continuation found by beam search."""

    token_ids: tuple[int, ...]  # the stop token included
    logprob: float  # of all of them, from the raw logits
    score: float  # logprob / len(token_ids) ** length_penalty
    finish_reason: FinishReason
