"""Which worker probably still holds which prompt starts, from what was sent there."""

from collections import OrderedDict
from collections.abc import Sequence

GRAIN = 256  # prompt tokens of one entry


def prefix_chain(token_ids: Sequence[int]) -> list[int]:
    """One hash for each full ``GRAIN`` tokens: of them and all before."""
    chain, parent = [], 0
    for start in range(0, len(token_ids) - GRAIN + 1, GRAIN):
        parent = hash((parent, tuple(token_ids[start : start + GRAIN])))
        chain.append(parent)
    return chain


class PrefixIndex:
    """Approximate: workers evict by rules of their own, so each remembers at most what its pool could hold, the latest first."""

    def __init__(self) -> None:
        self._held: dict[str, OrderedDict[int, None]] = {}
        self._holders: dict[int, set[str]] = {}

    def note(self, worker_id: str, chain: Sequence[int], capacity_tokens: int) -> None:
        """A prompt goes to (or through) a worker."""
        held = self._held.setdefault(worker_id, OrderedDict())
        for key in reversed(chain):  # the beginning is kept longest
            if key in held:
                held.move_to_end(key)
            else:
                held[key] = None
                self._holders.setdefault(key, set()).add(worker_id)
        while len(held) * GRAIN > capacity_tokens:
            self._drop(worker_id, held.popitem(last=False)[0])

    def forget(self, worker_id: str) -> None:
        """A worker is gone."""
        for key in self._held.pop(worker_id, {}):
            self._drop(worker_id, key)

    def matches(self, chain: Sequence[int]) -> dict[str, int]:
        """Prompt tokens that each worker probably holds; workers that hold none are left out."""
        found: dict[str, int] = {}
        for depth, key in enumerate(chain):
            holders = self._holders.get(key, ())
            alive = [worker for worker in holders if found.get(worker, 0) == depth * GRAIN]
            if not alive:
                break
            for worker in alive:
                found[worker] = (depth + 1) * GRAIN
        return found

    def _drop(self, worker_id: str, key: int) -> None:
        holders = self._holders[key]
        holders.discard(worker_id)
        if not holders:
            del self._holders[key]
