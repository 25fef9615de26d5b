"""A twin of the prompts a worker has to prefill: it plays the scheduler's rule forward, so that a forecast knows who is ahead and how far."""

from dataclasses import dataclass
from heapq import heapreplace

from nanopd.cost_model import StepFeatures, StepModel


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

    def __init__(self, model: StepModel, chunk_size: int, budget: int, depth: int = 1) -> None:
        """``depth``: steps that are scheduled before the first of them has ended."""
        self.prompts: list[Prompt] = []
        self._model = model
        self._chunk_size = chunk_size
        self._budget = budget
        self._depth = depth
        self._at = 0.0  # until when steps have been played

    @property
    def num_tokens(self) -> int:
        """Prompt tokens still to be computed."""
        return sum(prompt.left for prompt in self.prompts)

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
        """From ``now`` to the first token of a prompt that comes now: as many prompts as a step holds advance side by side, the others follow.

        Who comes later in order does not wait for us to end: what we leave of a step, they fill.
        """
        width = max(1, (self._budget - num_decodes) // self._chunk_size)
        lanes, attention, behind = [0] * width, num_tokens * (position + num_tokens / 2), 0
        total = num_tokens
        for prompt in self.prompts:
            if prompt.priority <= priority:
                heapreplace(lanes, lanes[0] + prompt.left)
            else:
                behind += prompt.left
            attention += prompt.left * (prompt.position + prompt.left / 2)
            total += prompt.left
        end = lanes[0] + num_tokens
        heapreplace(lanes, end)
        steps = max(1, -(-end // self._chunk_size))
        done = sum([min(lane, end) for lane in lanes])
        done += min(behind, max(0, steps * width * self._chunk_size - done))
        chunks = min(width, len(self.prompts) + 1, -(-done // self._chunk_size // steps))
        features = StepFeatures(done // steps, attention * done / total / steps, chunks, num_decodes, context)
        if not self.prompts:
            return wait_ms + steps * self._model.predict_ms(features)
        _, running_ms = self._step([(p.position, p.left) for p in self.prompts[:width]], num_decodes, context)
        waited = max(0.0, self._at * 1e3 + running_ms - now * 1e3)  # the step under way ends first
        waited += (self._depth - 1) * running_ms  # and those that were scheduled behind it
        return waited + steps * self._model.predict_ms(features)

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
