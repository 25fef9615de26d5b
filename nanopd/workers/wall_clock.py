"""Real time."""

import time


class WallClock:
    """``Clock`` on the system's monotonic clock, which all processes of a host share."""

    __slots__ = ()

    def now(self) -> float:
        return time.monotonic()
