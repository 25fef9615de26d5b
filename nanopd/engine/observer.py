"""Who wants to know when a step passed through the engine's hands (tracing). An engine without an observer does nothing for it."""

from typing import Protocol

from nanopd.batch import Batch, StepResult


class StepObserver(Protocol):
    """Called by the engine right after it happened; times are seconds on the engine's clock."""

    def submitted(self, batch: Batch, began: float, scheduled: float, submitted: float) -> None:
        """Scheduling began, ended, and the step was handed to the executor."""
        ...

    def collected(self, batch: Batch, result: StepResult, awaited: float, landed: float, applied: float) -> None:
        """The engine began to wait for the step, had its result, and had updated its sequences. In the order of submission."""
        ...
