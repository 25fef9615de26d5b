"""Time as a seam: policy asks a ``Clock``; the wall clock lives in ``runtime``, the virtual one drives the simulator."""

from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def now(self) -> float:
        """Seconds since an arbitrary origin; never goes back."""
        ...


class VirtualClock:
    """A clock that stands still until it is told to move (simulator, tests)."""

    __slots__ = ("_now",)

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance_to(self, when: float) -> None:
        """Moves the clock to ``when`` seconds; time never goes back."""
        assert when >= self._now, f"time would go back from {self._now} to {when}"
        self._now = when
