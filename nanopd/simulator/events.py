"""What happens next: a heap of actions by virtual time."""

import heapq
from collections.abc import Callable

from nanopd.clock import VirtualClock


class EventQueue:
    """Runs actions in order of time. Of those at the same time, the ends of steps come first; else they run in the order they were set."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.num_run = 0
        self._heap: list[tuple[float, bool, int, Callable[[], None]]] = []
        self._num_set = 0

    def at(self, when: float, action: Callable[[], None], *, ends_step: bool = False) -> None:
        """``action`` runs at ``when`` (seconds), or now if that has passed."""
        self._num_set += 1
        heapq.heappush(self._heap, (max(when, self.clock.now()), not ends_step, self._num_set, action))

    def run_next(self) -> bool:
        """Moves the clock to the next action and runs it; False if there is none."""
        if not self._heap:
            return False
        when, _, _, action = heapq.heappop(self._heap)
        self.clock.advance_to(when)
        self.num_run += 1
        action()
        return True
