"""Beam search over HTTP: the fields that ask for it, and the searches of a call."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from nanopd.errors import InvalidRequestError
from nanopd.request import BeamParams, SamplingParams
from nanopd.runtime.beams import beam_search
from nanopd.runtime.completion import Completion
from nanopd.runtime.generation import GenerationOptions, Generator
from nanopd.server.protocol import GenerationFields

# What a search cannot heed, with the values that ask for nothing (False does too).
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "stream": (),
    "logprobs": (),
    "stop": ("", []),
    "temperature": (0, 1),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "min_tokens": (0,),
}
_EARLY_STOPPING = {True: "first", False: "heuristic"}  # as transformers has it


def beam_params(fields: GenerationFields, n: int) -> BeamParams | None:
    """None: sample. ``n``, how many choices there are to be, is the width. Raises InvalidRequestError naming the field."""
    if not fields.use_beam_search:
        for name in ("length_penalty", "early_stopping"):
            if getattr(fields, name) is not None:
                raise InvalidRequestError(f"{name} needs use_beam_search to be true", name)
        return None
    for name, neutral in _NEUTRAL.items():
        value = getattr(fields, name, None)
        if value is not None and value is not False and value not in neutral:
            raise InvalidRequestError(f"{name} does not go with use_beam_search, got {value!r}", name)
    rule = fields.early_stopping
    return BeamParams(
        n,
        1.0 if fields.length_penalty is None else fields.length_penalty,
        "heuristic" if rule is None else rule if isinstance(rule, str) else _EARLY_STOPPING[rule],
    )


async def search_all(
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    request_ids: Sequence[str],
    params: BeamParams,
    sampling: SamplingParams,
    options: GenerationOptions,
) -> list[Completion]:
    """The hypotheses of every prompt, best first, numbered on from prompt to prompt. The first failure ends all searches.

    Raises InvalidRequestError, OverloadedError, RequestFailedError.
    """
    searches = [
        asyncio.ensure_future(beam_search(generator, prompt, params, sampling, options, request_id))
        for prompt, request_id in zip(prompts, request_ids, strict=True)
    ]
    try:
        answers = await asyncio.gather(*searches)
    finally:
        for search in searches:
            search.cancel()
    return [
        replace(hypothesis, index=number * params.width + hypothesis.index)
        for number, hypotheses in enumerate(answers)
        for hypothesis in hypotheses
    ]
