"""The executor's twin: a step takes what the cost model says, and its tokens end each request where the workload says."""

from collections.abc import Mapping

from nanopd.batch import Batch, StepResult
from nanopd.cost_model import StepFeatures, StepModel

EOS_TOKEN = 0  # ends a request
WORD_TOKEN = 1  # any other sampled token


class _Ready:
    """A step whose result can be read; the simulation reads it when the step's time is over."""

    __slots__ = ("_result",)

    def __init__(self, result: StepResult) -> None:
        self._result = result

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self._result


class CostModelExecutor:
    """``last_step_ms`` is what the step submitted last (``last_is_decode``: without prompts) takes of the device, ``last_launch_ms`` what its launch
    takes of the host."""

    def __init__(self, model: StepModel, final_lens: Mapping[str, int]) -> None:
        """``final_lens``: request id -> prompt and output tokens together, once it is complete. Nothing else knows them."""
        self.model = model
        self.last_step_ms = self.last_launch_ms = 0.0
        self.last_is_decode = True
        self._final_lens = final_lens
        self._final_of: dict[str, int] = {}  # by seq_id, "request#attempt"

    def submit(self, batch: Batch) -> _Ready:
        features = StepFeatures.of_batch(batch)
        self.last_step_ms, self.last_launch_ms = self.model.device_ms(features), self.model.launch_ms(features)
        self.last_is_decode = not features.num_prefill_tokens
        final_of, tokens = self._final_of, []
        for piece in batch.slices:
            if piece.sample is None:
                continue
            final = final_of.get(piece.request_id)
            if final is None:
                final = self._learn(piece.request_id)
            if piece.start + piece.num_tokens + 1 >= final:
                tokens.append(EOS_TOKEN)
                final_of.pop(piece.request_id, None)
            else:
                tokens.append(WORD_TOKEN)
        return _Ready(StepResult(tokens, [None] * len(tokens)))

    def final_len(self, seq_id: str) -> int:
        """Length of a sequence once it is complete; 0 when its request is over."""
        return self._final_of.get(seq_id) or self._learn(seq_id)

    def _learn(self, seq_id: str) -> int:
        final = self._final_lens.get(seq_id.rpartition("#")[0], 0)  # 0: a spare step after the end
        if final:
            self._final_of[seq_id] = final
        return final
