"""What prompts take, cut into steps as the scheduler does it."""

from nanopd.cost_model import StepFeatures, StepPredictor
from nanopd.scheduler.plan import tokens_beside


def prefill_costs(
    model: StepPredictor, num_tokens: int, position: int, chunk_size: int, num_decodes: int, context: int
) -> tuple[float, float]:
    """Milliseconds that a prompt's chunks take by themselves, and what they add to the steps of those who decode there."""
    own, _ = _chunks_ms(model, num_tokens, position, chunk_size, 0, 0)
    if not num_decodes:
        return own, 0.0
    mixed, num_steps = _chunks_ms(model, num_tokens, position, chunk_size, num_decodes, context)
    return own, mixed - num_steps * model.predict_ms(StepFeatures(0, 0.0, 0, num_decodes, context))


def _chunks_ms(
    model: StepPredictor, num_tokens: int, position: int, chunk_size: int, num_decodes: int, context: int
) -> tuple[float, int]:
    """All chunks of a prompt, each in a step with the decodes; and how many they are."""
    chunk = min(num_tokens, tokens_beside(num_decodes, chunk_size, chunk_size))
    num_full = -(-num_tokens // chunk) - 1
    rest = num_tokens - num_full * chunk
    last = StepFeatures(rest, rest * (position + num_tokens - rest / 2), 1, num_decodes, context)
    if not num_full:
        return model.predict_ms(last), 1
    full = StepFeatures(chunk, chunk * (position + num_full * chunk / 2), 1, num_decodes, context)
    return num_full * model.predict_ms(full) + model.predict_ms(last), num_full + 1


def packed_prefill_ms(model: StepPredictor, num_tokens: int, position: int, chunk_size: int, budget: int) -> float:
    """Milliseconds that a prompt takes of steps it shares with others like it, filled to ``budget``; never more than alone."""
    count = min(num_tokens, chunk_size)
    num_prompts = max(1, budget // count)
    attention = num_prompts * count * (position + (num_tokens + 1) / 2)
    step_ms = model.predict_ms(StepFeatures(num_prompts * count, attention, num_prompts, 0, 0))
    return step_ms * num_tokens / (num_prompts * count)
