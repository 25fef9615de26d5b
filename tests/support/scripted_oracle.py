"""What the scripted model generates for a request when nothing is batched, cached, chunked, preempted or handed off."""

from collections.abc import Sequence

from nanopd.batch import SampleSpec
from nanopd.engine.scripted import scripted_logprob, scripted_token
from nanopd.request import FinishReason, Request, TokenLogprobs
from nanopd.scheduler import stream_key, uniform

VOCAB_SIZE = 97


def sequential(request: Request, max_model_len: int, initial: Sequence[int] = ()) -> tuple[list[int], FinishReason]:
    """All output tokens (``initial`` included) and why they end."""
    params, prompt = request.sampling, list(request.prompt_token_ids)
    outputs = list(initial)
    limit = max_model_len - len(prompt)
    if params.max_tokens is not None:
        limit = min(limit, params.max_tokens)
    while True:
        if outputs and outputs[-1] in request.stop_ids:
            return outputs, FinishReason.STOP
        if len(outputs) >= limit:
            return outputs, FinishReason.LENGTH
        context = prompt + outputs
        draw = 0.0 if params.is_greedy else uniform(stream_key(params.seed or 0), len(context))
        suppressed = tuple(request.stop_ids) if len(outputs) < params.min_tokens else ()
        spec = SampleSpec(params, draw, request.prompt_token_ids, outputs, suppressed)
        outputs.append(scripted_token(context, spec, VOCAB_SIZE))


def sequential_logprobs(request: Request, outputs: Sequence[int], first_index: int) -> list[TokenLogprobs]:
    """The scripted log-probabilities of ``outputs`` from ``first_index`` on."""
    context = [*request.prompt_token_ids, *outputs]
    first = len(request.prompt_token_ids) + first_index
    return [scripted_logprob(context[:i], context[i]) for i in range(first, len(context))]


def prompt_logprobs(request: Request) -> tuple[TokenLogprobs, ...]:
    """The scripted log-probabilities of prompt tokens 1, 2, ..."""
    prompt = list(request.prompt_token_ids)
    return tuple(scripted_logprob(prompt[:i], prompt[i]) for i in range(1, len(prompt)))
