"""A twin of the prompts a worker has to prefill: it plays the scheduler's rule forward, so that a forecast knows who is ahead and how far."""

from dataclasses import dataclass
from heapq import heapreplace

from nanopd.cost_model import StepFeatures, StepPredictor
from nanopd.scheduler.plan import tokens_beside


@dataclass(slots=True)
class Prompt:
    """``[0, position) computed | [position, position + left) to be computed``."""

    request_id: str
    attempt: int
    priority: int
    position: int
    left: int
    is_open: bool = False  # the worker has been told

    def take(self, count: int) -> None:
        """``count`` of its tokens have been computed."""
        self.position += count
        self.left -= count


class PrefillQueue:
    """As ``Scheduler`` does it: in order of priority and arrival, a chunk of each prompt per step, within the step's budget. Seconds in, ms out."""

    def __init__(self, model: StepPredictor, chunk_size: int, budget: int, depth: int = 1) -> None:
        """``depth``: steps that are scheduled before the first of them has ended."""
        self.prompts: list[Prompt] = []
        self._model = model
        self._chunk_size = chunk_size
        self._budget = budget
        self._width = max(1, budget // chunk_size)  # prompts that share a step
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

    def finish(self, prompt: Prompt, at: float) -> None:
        """The worker has told that a prompt was complete at ``at``: who shared its steps has got as far, and a step begins."""
        num_steps = -(-prompt.left // self._chunk_size)
        self.prompts.remove(prompt)
        for other in self.prompts[: self._width - 1]:
            other.take(min(num_steps * self._chunk_size, other.left - 1))
        self._at = max(self._at, at)

    def advance(self, now: float, num_decodes: int, context: int) -> None:
        """Plays the steps that should have ended by ``now``, but none that completes an open prompt, for that would have been told.

        So the twin waits for a worker that is slower than its model; else the worker's queue would grow unseen.
        """
        while self.prompts:
            eaten, step_ms = self._step(num_decodes, context)
            if self._at + step_ms / 1e3 > now:
                return
            if any([p.is_open and p.left <= count for p, count in zip(self.prompts, eaten, strict=False)]):
                self._at = now - step_ms / 1e3  # any moment now
                return
            self._at += step_ms / 1e3
            for prompt, count in zip(self.prompts, eaten, strict=False):
                prompt.take(count)
            self.prompts = [prompt for prompt in self.prompts if prompt.left > 0]

    def first_token_ms(
        self, position: int, num_tokens: int, priority: int, now: float, wait_ms: float, num_decodes: int, context: int
    ) -> float:
        """From ``now`` to the first token of a prompt that comes now: as many prompts as a step holds advance side by side, the others follow.

        Who comes later in order does not wait for us to end: what we leave of a step, they fill.
        """
        width = self._width
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
        abreast = min(width, len(self.prompts) + 1)
        full = min(abreast * self._chunk_size, self._budget - num_decodes)
        full = max(1, tokens_beside(num_decodes, full, self._chunk_size))
        steps = -(-end // (full if abreast == 1 else self._chunk_size))
        done = sum([min(lane, end) for lane in lanes])
        done += min(behind, max(0, steps * full - done))
        steps = max(steps, -(-done // full))
        rest = max(1, done - (steps - 1) * full)  # of the last step
        per_token = attention / total

        def step_ms(count: int) -> float:
            chunks = min(abreast, -(-count // self._chunk_size))
            return self._model.predict_ms(StepFeatures(count, per_token * count, chunks, num_decodes, context))

        work_ms = step_ms(rest) + ((steps - 1) * step_ms((done - rest) // (steps - 1)) if steps > 1 else 0.0)
        if not self.prompts:
            return wait_ms + work_ms
        _, running_ms = self._step(num_decodes, context)
        waited = max(0.0, self._at * 1e3 + running_ms - now * 1e3)  # the step under way ends first
        waited += (self._depth - 1) * running_ms  # and those that were scheduled behind it
        return waited + work_ms

    def _step(self, num_decodes: int, context: int) -> tuple[list[int], float]:
        """Tokens that the next step takes of the first prompts, and its milliseconds."""
        budget = max(1, self._budget - num_decodes)
        eaten: list[int] = []
        attention = 0.0
        for prompt in self.prompts:
            count = min(prompt.left, self._chunk_size, budget)
            if count <= 0:
                break
            if count < prompt.left:
                count = tokens_beside(self._budget - budget, count, count)
            eaten.append(count)
            budget -= count
            attention += count * (prompt.position + (count + 1) / 2)
        features = StepFeatures(sum(eaten), attention, len(eaten), num_decodes, context)
        return eaten, self._model.predict_ms(features)
