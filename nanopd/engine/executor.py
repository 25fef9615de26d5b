"""The executor seam: where a step's work leaves policy and reaches a device.

Real: ``model_runner`` on a device. Twins: the simulator's cost-model executor, the scripted executor of the tests.
"""

from typing import Protocol

from nanopd.batch import Batch, StepResult


class StepHandle(Protocol):
    """A submitted step."""

    def done(self) -> bool:
        """Whether ``result`` would return without waiting."""
        ...

    def result(self) -> StepResult:
        """Waits for the step and returns what it produced. Called once, in submission order. Raises what the step raised."""
        ...


class Executor(Protocol):
    """Carries out steps in the order of submission.

    ``submit`` reads the batch (block tables grow in place later) and may return before the step has run; a batch may refer to
    tokens sampled by the one before it (``SeqSlice.previous_row``).
    """

    def submit(self, batch: Batch) -> StepHandle: ...
