"""From the fields of a request to ``SamplingParams`` and ``GenerationOptions``."""

from typing import Any

from nanopd.errors import InvalidRequestError
from nanopd.request import SamplingParams, Slo, Strategy
from nanopd.runtime.generation import GenerationOptions
from nanopd.server.protocol import GenerationFields

# Fields that mean the same in the API and in SamplingParams.
_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "ignore_eos",
    "seed",
)


def sampling_params(
    fields: GenerationFields, *, max_tokens: int | None, logprobs: int | None = None, prompt_logprobs: int | None = None
) -> SamplingParams:
    """Raises InvalidRequestError naming the field."""
    given: dict[str, Any] = {name: getattr(fields, name) for name in _SAME_NAME if getattr(fields, name) is not None}
    if fields.seed is not None:
        given["seed"] = fields.seed % 2**64  # clients may send negative seeds
    if fields.top_k is not None:
        given["top_k"] = max(fields.top_k, 0)  # -1 is a common way to write "off"
    return SamplingParams(
        max_tokens=max_tokens,
        logit_bias=_logit_bias(fields.logit_bias or {}),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        stop=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ()),
        stop_token_ids=tuple(fields.stop_token_ids or ()),
        **given,
    )


def generation_options(fields: GenerationFields, tenant: str) -> GenerationOptions:
    """Raises InvalidRequestError naming the field."""
    slo = fields.slo
    return GenerationOptions(
        priority=fields.priority or 0,
        slo=Slo(slo.ttft_ms, slo.tpot_ms) if slo else Slo(),
        tenant=tenant,
        strategy=_strategy(fields.strategy),
        skip_special_tokens=fields.skip_special_tokens is not False,
        include_stop_str_in_output=bool(fields.include_stop_str_in_output),
    )


def num_choices(fields: GenerationFields, max_n: int) -> int:
    """``n``, checked."""
    n = 1 if fields.n is None else fields.n
    if not 1 <= n <= max_n:
        raise InvalidRequestError(f"n must be between 1 and {max_n}, got {n}", "n")
    return n


def _strategy(name: str | None) -> Strategy | None:
    if name is None:
        return None
    try:
        return Strategy(name)
    except ValueError:
        raise InvalidRequestError(f"strategy must be one of {', '.join(Strategy)}, got {name!r}", "strategy") from None


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    """JSON object keys are strings."""
    try:
        return {int(token_id): value for token_id, value in bias.items()}
    except ValueError:
        raise InvalidRequestError(f"logit_bias keys must be token ids, got {sorted(bias)}", "logit_bias") from None
