"""Beam searches on the paged KV cache: a beam is a sequence that samples once and is held; its continuations are forks of it.

::

    round 0   prompt --top k-->  held
                                  | fork x width (blocks shared; copied when written)     the parents are released: what no child
    round 1   beam beam beam beam --top k--> all held  --rank--> fork ...                 shares is free
"""

from nanopd.decoding import BeamSearch, num_candidates
from nanopd.messages import LegTimes
from nanopd.request import Request, SamplingParams, TokenLogprobs
from nanopd.scheduler import EndedSeq, LegKind, Outcomes, Scheduler, SeqOutput


class _Running:
    """One search under way. ``members``: the sequences of this round, in the order of the search's beams."""

    def __init__(self, seq_id: str, request: Request, search: BeamSearch, num_top: int) -> None:
        self.seq_id = seq_id
        self.search = search
        sampling = SamplingParams(search.max_tokens, temperature=0.0, logprobs=num_top)
        self.beam_request = Request(request.request_id, request.prompt_token_ids, sampling, priority=request.priority)
        self.num_rounds = 0
        self.members: list[str] = []
        self.drawn: dict[str, TokenLogprobs] = {}  # by member, once it has sampled
        self.held: set[str] = set()  # members whose KV is kept for their children
        self.times = LegTimes()
        self.first_drawn_at: float | None = None
        self.ending: EndedSeq | None = None  # to be told once no sequence is left
        self.open: set[str] = set()  # members the scheduler has and has not ended; kept up to date while ending

    def next_members(self, count: int) -> list[str]:
        self.members = [f"{self.seq_id}~{self.num_rounds}.{index}" for index in range(count)]
        self.num_rounds += 1
        self.drawn.clear()
        self.held.clear()
        return self.members


class Beams:
    """The beam searches of one engine. To the outside each is one sequence, which speaks once, at its end."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._running: dict[str, _Running] = {}

    def open(self, seq_id: str, request: Request, now: float) -> None:
        """Begins a search. Raises InvalidRequestError."""
        params, stop_ids = request.beam, request.stop_ids
        assert params is not None
        num_top = num_candidates(params, stop_ids)
        room = max(self._scheduler.max_model_len - len(request.prompt_token_ids), 1)
        search = BeamSearch(params, stop_ids, min(request.sampling.max_tokens or room, room))
        run = _Running(seq_id, request, search, num_top)
        (root,) = run.next_members(1)
        self._scheduler.add(root, run.beam_request, LegKind.BEAM, now)
        self._running[seq_id] = run

    def abort(self, seq_id: str) -> bool:
        """Ends a search; ``EndedSeq`` follows. False if there is none of this id."""
        run = self._running.get(seq_id)
        if run is None:
            return False
        self._break_off(run, EndedSeq(seq_id))
        return True

    # ---- between steps

    def take(self, outcomes: Outcomes, now: float) -> None:
        """Replaces what ``outcomes`` say of beams by what that means for their searches, and begins rounds that are due."""
        if not self._running:
            return
        outputs, outcomes.outputs = outcomes.outputs, []
        ended, outcomes.ended = outcomes.ended, []
        moved: dict[str, _Running] = {}
        for output in outputs:
            run = self._of(output.seq_id)
            if run is None:
                outcomes.outputs.append(output)
            elif run.ending is None:
                self._note(run, output, now)
                moved[run.seq_id] = run
        for each in ended:
            run = self._of(each.seq_id)
            if run is None:
                outcomes.ended.append(each)
            else:
                self._member_ended(run, each)
        for run in moved.values():
            if run.ending is None and len(run.drawn) == len(run.members):
                self._advance(run, outcomes, now)
        for run in [run for run in self._running.values() if run.ending is not None and not run.open]:
            del self._running[run.seq_id]
            assert run.ending is not None
            outcomes.ended.append(run.ending)

    @property
    def can_let_go(self) -> bool:
        """Whether ``let_go`` would free anything."""
        return any(run.held for run in self._running.values())

    def let_go(self) -> bool:
        """Nothing can run, and held beams sit on blocks: gives those up. What they drew is known; their children compute the KV anew."""
        gone = [seq_id for run in self._running.values() for seq_id in run.held]
        for run in self._running.values():
            run.held.clear()
        for seq_id in gone:
            self._scheduler.release(seq_id)
        return bool(gone)

    # ---- one search

    def _of(self, member: str) -> _Running | None:
        return self._running.get(member.rpartition("~")[0])

    def _note(self, run: _Running, output: SeqOutput, now: float) -> None:
        (drawn,) = output.logprobs
        assert drawn is not None
        run.drawn[output.seq_id] = drawn
        run.held.add(output.seq_id)
        if run.first_drawn_at is None:
            run.first_drawn_at, run.times = now, output.times

    def _advance(self, run: _Running, outcomes: Outcomes, now: float) -> None:
        """All beams of the round have drawn."""
        search, parents, held = run.search, run.members, set(run.held)
        search.advance([run.drawn[member] for member in parents])
        children = run.next_members(len(search.beams))
        for child, beam in zip(children, search.beams, strict=True):
            self._scheduler.fork(parents[beam.parent], child, run.beam_request, LegKind.BEAM, now, beam.token_ids)
        for parent in held:
            self._scheduler.release(parent)
        if search.is_done:
            del self._running[run.seq_id]
            outcomes.outputs.append(self._answer(run, now))

    def _answer(self, run: _Running, now: float) -> SeqOutput:
        best = run.search.hypotheses[0]
        assert run.first_drawn_at is not None
        times = LegTimes(
            run.times.queue_ms,
            run.times.prefill_ms,
            (now - run.first_drawn_at) * 1e3,
            run.times.num_cached_tokens,
        )
        return SeqOutput(
            run.seq_id,
            0,
            best.token_ids,
            finish_reason=best.finish_reason,
            times=times,
            hypotheses=tuple(run.search.hypotheses),
        )

    def _member_ended(self, run: _Running, ended: EndedSeq) -> None:
        if run.ending is None:  # one beam cannot be served, so the search cannot
            self._break_off(run, EndedSeq(run.seq_id, ended.error))
        run.open.discard(ended.seq_id)

    def _break_off(self, run: _Running, ending: EndedSeq) -> None:
        if run.ending is not None:
            return
        run.ending = ending
        released = set(run.drawn) - run.held
        run.held.clear()
        run.open = set(run.members) - released
        for member in run.members:
            self._scheduler.abort(member)
