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
    """``last_step_ms`` is what the step submitted last takes."""

    def __init__(self, model: StepModel, final_lens: Mapping[str, int]) -> None:
        """``final_lens``: request id -> prompt and output tokens together, once it is complete. Nothing else knows them."""
        self._model = model
        self._final_lens = final_lens
        self._final_of: dict[str, int] = {}  # by seq_id, "request#attempt"
        self.last_step_ms = 0.0

    def submit(self, batch: Batch) -> _Ready:
        self.last_step_ms = self._model.predict_ms(StepFeatures.of_batch(batch))
        final_of, tokens = self._final_of, []
        for piece in batch.slices:
            if piece.sample is None:
                continue
            seq_id = piece.request_id
            final = final_of.get(seq_id)
            if final is None:
                final = final_of[seq_id] = self._final_lens[seq_id.rpartition("#")[0]]
            if piece.start + piece.num_tokens + 1 >= final:
                tokens.append(EOS_TOKEN)
                del final_of[seq_id]
            else:
                tokens.append(WORD_TOKEN)
        return _Ready(StepResult(tokens, [None] * len(tokens)))
