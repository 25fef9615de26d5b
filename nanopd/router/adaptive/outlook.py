"""What one worker can offer a request, and at what price to others."""

from typing import NamedTuple

from nanopd.config import Role
from nanopd.cost_model import StepFeatures, StepModel
from nanopd.router.adaptive.harm import Harm
from nanopd.router.view import WorkerView


class Outlook(NamedTuple):
    """Milliseconds. What concerns a prefill is 0 if the worker is only asked to decode."""

    worker: WorkerView
    num_cached_tokens: int  # of the prompt
    num_new_tokens: int
    ttft_ms: float  # if it prefills here
    prefill_ms: float  # of the worker's time
    stall_ms: float  # of those who decode here, by the prefill
    follow_ms: float  # the step that may come after the prompt's last: what it has to push is acknowledged at its end
    step_ms: float  # a decode step now
    token_ms: float  # time per token once the request decodes here, prefills of others included
    growth_ms: float  # what one more sequence adds to a step
    harm: Harm
    role: Role
    shadow: float  # requests to come that its prefill here would make late

    @property
    def worker_id(self) -> str:
        return self.worker.worker_id


def prefill_costs(
    model: StepModel, num_tokens: int, position: int, chunk_size: int, num_decodes: int, context: int
) -> tuple[float, float]:
    """Milliseconds that a prompt's chunks take by themselves, and what they add to the steps of those who decode there."""
    num_steps = max(1, -(-num_tokens // chunk_size))
    count = -(-num_tokens // num_steps)
    attention = count * (position + (num_tokens + 1) / 2)  # of the middle chunk
    own = model.predict_ms(StepFeatures(count, attention, 1, 0, 0))
    if not num_decodes:
        return num_steps * own, 0.0
    mixed = model.predict_ms(StepFeatures(count, attention, 1, num_decodes, context))
    return num_steps * own, num_steps * (mixed - model.predict_ms(StepFeatures(0, 0.0, 0, num_decodes, context)))


def packed_prefill_ms(model: StepModel, num_tokens: int, position: int, chunk_size: int, budget: int) -> float:
    """Milliseconds that a prompt takes of steps it shares with others like it, filled to ``budget``; never more than alone."""
    count = min(num_tokens, chunk_size)
    num_prompts = max(1, budget // count)
    attention = num_prompts * count * (position + (num_tokens + 1) / 2)
    step_ms = model.predict_ms(StepFeatures(num_prompts * count, attention, num_prompts, 0, 0))
    return step_ms * num_tokens / (num_prompts * count)
