"""Who waits for whose blocks: what keeps workers from waiting for one another in a circle.

A hand-off from P to D that has not started decoding holds reserved blocks of D until P has computed the prompt, and P may have no blocks for
that prompt as long as hand-offs *to* P hold them. Were D to prefill for P at the same time, directly or through others, both could be full of
reservations that wait for each other, for good. While the hand-offs under way form no circle, some worker has none to wait for; its blocks come
free, its prompts are computed, and so on along the graph. So a hand-off that would close a circle is not begun.
"""

from collections import Counter
from dataclasses import replace

from nanopd.router.plan import Decision


class HandoffGraph:
    """The hand-offs that have not started decoding, by request. Edges are counted: asking costs nothing where roles are fixed."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[str, str]] = {}  # request id -> (prefill worker, decode worker)
        self._fills: dict[str, Counter[str]] = {}  # prefill worker -> the decode workers it computes for

    def __len__(self) -> int:
        return len(self._pairs)

    def open(self, request_id: str, prefill_worker: str, decode_worker: str) -> None:
        """A reservation is being asked for."""
        assert request_id not in self._pairs, f"{request_id} is being handed off already"
        self._pairs[request_id] = prefill_worker, decode_worker
        self._fills.setdefault(prefill_worker, Counter())[decode_worker] += 1

    def close(self, request_id: str) -> None:
        """It decodes, or was given up. Unknown ids are ignored."""
        pair = self._pairs.pop(request_id, None)
        if pair is None:
            return
        prefill_worker, decode_worker = pair
        filled = self._fills[prefill_worker]
        filled[decode_worker] -= 1
        if not filled[decode_worker]:
            del filled[decode_worker]
        if not filled:
            del self._fills[prefill_worker]

    def without_circle(self, decision: Decision) -> Decision:
        """The decision, or all of it on its prefill worker if it would close a circle."""
        prefill, decode = decision.chosen.prefill_worker, decision.chosen.decode_worker
        if prefill == decode or not self.closes_circle(prefill, decode):
            return decision
        why = f"{decision.reason}; kept on {prefill}, where hand-offs wait for {decode}"
        return replace(decision, chosen=replace(decision.chosen, decode_worker=prefill), reason=why)

    def closes_circle(self, prefill_worker: str, decode_worker: str) -> bool:
        """Whether blocks of ``prefill_worker`` wait, through any number of hand-offs, for ``decode_worker``."""
        reached, to_visit = {decode_worker}, [decode_worker]
        while to_visit:
            for worker_id in self._fills.get(to_visit.pop(), ()):
                if worker_id == prefill_worker:
                    return True
                if worker_id not in reached:
                    reached.add(worker_id)
                    to_visit.append(worker_id)
        return False
