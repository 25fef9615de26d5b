"""Beam search of one prompt: from token ids to ranked texts."""

import secrets
from collections.abc import Sequence

from nanopd.request import BeamParams, Hypothesis, Request, SamplingParams, Strategy
from nanopd.runtime.completion import Completion
from nanopd.runtime.generation import GenerationOptions, Generator, raise_if_failed
from nanopd.tokenizer import OutputProcessor


async def beam_search(
    generator: Generator,
    prompt_token_ids: Sequence[int],
    params: BeamParams,
    sampling: SamplingParams,
    options: GenerationOptions | None = None,
    request_id: str | None = None,
) -> list[Completion]:
    """The hypotheses, best first. Of ``sampling`` only the stop conditions count. Runs collocated: beams share blocks of one worker.

    Raises InvalidRequestError, OverloadedError, RequestFailedError.
    """
    options = options or GenerationOptions()
    request = Request(
        request_id=request_id or secrets.token_hex(8),
        prompt_token_ids=tuple(prompt_token_ids),
        sampling=sampling,
        priority=options.priority,
        tenant=options.tenant,
        strategy=options.strategy or Strategy.COLLOCATED,
        eos_token_ids=generator.eos_token_ids,
        beam=params,
    )
    stream = generator.controller.submit(request)
    hypotheses: tuple[Hypothesis, ...] = ()
    try:
        async for delta in stream:
            hypotheses = delta.hypotheses
    finally:
        generator.controller.abort(request.request_id)  # if it has not ended
    raise_if_failed(stream.finish)
    report = stream.finish.report if stream.finish is not None else None

    def completion(index: int, hypothesis: Hypothesis) -> Completion:
        processor = OutputProcessor(generator.tokenizer, request, skip_special_tokens=options.skip_special_tokens)
        text = processor.push(hypothesis.token_ids).text + processor.finish()
        return Completion(
            index,
            text,
            hypothesis.token_ids,
            hypothesis.finish_reason,
            report=report,
            score=hypothesis.score,
            logprob=hypothesis.logprob,
        )

    return [completion(index, hypothesis) for index, hypothesis in enumerate(hypotheses)]
