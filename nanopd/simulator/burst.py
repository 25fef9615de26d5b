"""A device that cannot keep its pace: after some time of unbroken prompt computing its power limit lowers the clocks."""

from nanopd.cost_model.step_model import StepTerms


class Burst:
    """One device's. The time spent on prompts adds up, and runs off as fast while the device decodes or rests; up to twice ``burst_ms``."""

    def __init__(self, terms: StepTerms) -> None:
        self._limit_s = terms.burst_ms / 1e3
        self._sustained = terms.sustained_ratio
        self._spent_s = self._as_of = 0.0

    def prefill_s(self, begin: float, step_s: float) -> float:
        """What a step with prompts takes that begins at ``begin`` and takes a cool device ``step_s``; all in seconds."""
        if not self._limit_s:
            return step_s
        self._spent_s = max(0.0, self._spent_s - (begin - self._as_of))
        taken_s = step_s * self._sustained if self._spent_s >= self._limit_s else step_s
        self._spent_s = min(2.0 * self._limit_s, self._spent_s + taken_s)
        self._as_of = begin + taken_s
        return taken_s
