"""Who is where: the sequences of a worker, each in the place its state says."""

from bisect import bisect_left, insort
from operator import attrgetter

from nanopd.scheduler.sequence import SeqState, Sequence
from nanopd.scheduler.waiting_queue import WaitingQueue

_by_key = attrgetter("key")


class Roster:
    """Every change of a sequence's state goes through ``move``."""

    def __init__(self) -> None:
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []  # by key: priority, then arrival
        self.num_reserved = 0
        self._seqs: dict[str, Sequence] = {}

    def __len__(self) -> int:
        return len(self._seqs)

    @property
    def num_active(self) -> int:
        """Sequences that take a place in steps, now or once their KV has come."""
        return len(self.running) + self.num_reserved

    def get(self, seq_id: str) -> Sequence | None:
        return self._seqs.get(seq_id)

    def all(self) -> list[Sequence]:
        return list(self._seqs.values())

    def add(self, seq: Sequence) -> None:
        assert seq.seq_id not in self._seqs, f"sequence {seq.seq_id} was added twice"
        self._seqs[seq.seq_id] = seq

    def move(self, seq: Sequence, state: SeqState) -> None:
        """Takes the sequence from its place to that of ``state``; a finished one is forgotten."""
        match seq.state:
            case SeqState.WAITING:
                self.waiting.remove(seq)
            case SeqState.RUNNING:
                del self.running[bisect_left(self.running, seq.key, key=_by_key)]
            case SeqState.RESERVED:
                self.num_reserved -= 1
        seq.state = state
        match state:
            case SeqState.WAITING:
                self.waiting.push(seq)
            case SeqState.RUNNING:
                insort(self.running, seq, key=_by_key)
            case SeqState.RESERVED:
                self.num_reserved += 1
            case SeqState.FINISHED:
                del self._seqs[seq.seq_id]
