"""A twin of the prompts a worker has to prefill: it plays the scheduler's rule forward, so that a forecast knows who is ahead and how far."""

from dataclasses import dataclass

from nanopd.cost_model import StepFeatures, StepModel

MAX_STEPS = 48  # played out exactly in a forecast; beyond, the last pace goes on


@dataclass(slots=True)
class Prompt:
    """``[0, position) computed | [position, position + left) to be computed``."""

    request_id: str
    attempt: int
    priority: int
    position: int
    left: int
    is_open: bool = False  # the worker has been told


class PrefillQueue:
    """As ``Scheduler`` does it: in order of priority and arrival, a chunk of each prompt per step, within the step's budget. Seconds in, ms out."""

    def __init__(self, model: StepModel, chunk_size: int, budget: int) -> None:
        self.prompts: list[Prompt] = []
        self._model = model
        self._chunk_size = chunk_size
        self._budget = budget
        self._at = 0.0  # until when steps have been played

    def add(self, prompt: Prompt, now: float, wait_ms: float) -> None:
        """``wait_ms``: until a worker without prompts begins with this one (the step under way ends first)."""
        if not self.prompts:
            self._at = now + wait_ms / 1e3
        self.prompts.append(prompt)
        self.prompts.sort(key=lambda p: p.priority)  # stable

    def advance(self, now: float, num_decodes: int, context: int) -> None:
        """Plays the steps that have ended by ``now``."""
        while self.prompts:
            eaten, step_ms = self._step([(p.position, p.left) for p in self.prompts], num_decodes, context)
            if self._at + step_ms / 1e3 > now:
                return
            self._at += step_ms / 1e3
            for prompt, count in zip(self.prompts, eaten, strict=False):
                prompt.position += count
                prompt.left -= count
            self.prompts = [prompt for prompt in self.prompts if prompt.left > 0]

    def first_token_ms(
        self, position: int, num_tokens: int, priority: int, now: float, wait_ms: float, num_decodes: int, context: int
    ) -> float:
        """From ``now`` to the first token of a prompt that comes now."""
        ahead = [(p.position, p.left) for p in self.prompts if p.priority <= priority]
        ours = (position, num_tokens)
        elapsed = max(0.0, (self._at - now) * 1e3) if self.prompts else wait_ms
        for _ in range(MAX_STEPS):
            work = [*ahead, ours]
            eaten, step_ms = self._step(work, num_decodes, context)
            elapsed += step_ms
            if len(eaten) == len(work):
                ours = (ours[0] + eaten[-1], ours[1] - eaten[-1])
                if ours[1] <= 0:
                    return elapsed
            ahead = [(at + n, left - n) for (at, left), n in _zip_zero(ahead, eaten) if left > n]
        pace = elapsed / MAX_STEPS / max(1, sum(eaten))  # ms per token
        return elapsed + pace * (sum(left for _, left in ahead) + ours[1])

    def _step(self, work: list[tuple[int, int]], num_decodes: int, context: int) -> tuple[list[int], float]:
        """Tokens that a step takes of the first prompts, and its milliseconds."""
        budget = max(1, self._budget - num_decodes)
        eaten: list[int] = []
        attention = 0.0
        for position, left in work:
            count = min(left, self._chunk_size, budget)
            if count <= 0:
                break
            eaten.append(count)
            budget -= count
            attention += count * (position + (count + 1) / 2)
        features = StepFeatures(sum(eaten), attention, len(eaten), num_decodes, context)
        return eaten, self._model.predict_ms(features)


def _zip_zero(ahead: list[tuple[int, int]], eaten: list[int]) -> list[tuple[tuple[int, int], int]]:
    padded = eaten[: len(ahead)] + [0] * (len(ahead) - len(eaten))
    return list(zip(ahead, padded, strict=True))
