"""Sequences that wait for admission: by priority, then first come first served."""

import heapq
from collections.abc import Iterator

from nanopd.scheduler.sequence import Sequence


class WaitingQueue:
    """A heap that forgets removed sequences lazily. A preempted sequence comes back to its old place."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Sequence]] = []
        self._members: dict[str, Sequence] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Sequence]:
        """In no particular order."""
        return iter(self._members.values())

    def push(self, seq: Sequence) -> None:
        assert seq.seq_id not in self._members
        self._members[seq.seq_id] = seq
        heapq.heappush(self._heap, (seq.key, seq))

    def peek(self) -> Sequence | None:
        """The sequence whose turn it is."""
        while self._heap:
            seq = self._heap[0][1]
            if self._members.get(seq.seq_id) is seq:
                return seq
            heapq.heappop(self._heap)
        return None

    def remove(self, seq: Sequence) -> None:
        removed = self._members.pop(seq.seq_id)
        assert removed is seq
        if self._heap[0][1] is seq:  # an admitted sequence leaves no trace: preemption may push it again
            heapq.heappop(self._heap)
