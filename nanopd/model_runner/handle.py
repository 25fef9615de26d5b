"""A submitted step: the promise of a StepResult."""

import time
from dataclasses import dataclass, field

import torch

from nanopd.batch import StepResult
from nanopd.model_runner.logprobs import LogprobTensors, pinned_copy
from nanopd.request import TokenLogprobs


@dataclass(slots=True)
class StepOutputs:
    """What a step leaves on its device."""

    token_ids_R: torch.Tensor
    logprob_row_ids: list[int] = field(default_factory=list)  # rows that asked for log-probabilities
    logprobs: LogprobTensors | None = None
    prompt_logprobs: dict[str, list[LogprobTensors]] = field(default_factory=dict)

    def start_copies_to_host(self) -> None:
        """Replaces the tensors by pinned host copies, valid once the stream has got so far: later steps are not waited for."""
        self.token_ids_R = pinned_copy(self.token_ids_R)
        for tensors in (self.logprobs, *(piece for pieces in self.prompt_logprobs.values() for piece in pieces)):
            if tensors is not None:
                tensors.start_copies_to_host()

    def to_host(self, device_ms: float) -> StepResult:
        token_ids = self.token_ids_R.tolist()
        by_row: list[TokenLogprobs | None] = [None] * len(token_ids)
        if self.logprobs is not None:
            for row, entry in zip(self.logprob_row_ids, self.logprobs.to_host(), strict=True):
                by_row[row] = entry
        prompt = {
            request: [entry for piece in pieces for entry in piece.to_host()]
            for request, pieces in self.prompt_logprobs.items()
        }
        return StepResult(token_ids, by_row, prompt, device_ms)


class FinishedStep:
    """A step that ran while it was submitted (CPU)."""

    def __init__(self, outputs: StepOutputs, started: float) -> None:
        self._result = outputs.to_host((time.perf_counter() - started) * 1e3)

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self._result


class FailedStep:
    """A step that raised while it was submitted; ``result`` raises it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        raise self._error


class RunningStep:
    """A step queued on a CUDA stream."""

    def __init__(self, outputs: StepOutputs, started: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        self._outputs, self._started, self._ended = outputs, started, ended

    def done(self) -> bool:
        return self._ended.query()

    def result(self) -> StepResult:
        self._ended.synchronize()
        return self._outputs.to_host(self._started.elapsed_time(self._ended))
