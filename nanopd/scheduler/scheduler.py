"""Continuous batching: which tokens of which sequences the next step computes.

Iteration-level scheduling is from Orca (Yu et al., OSDI 2022), chunked prefill beside decodes from Sarathi-Serve (Agrawal et al., OSDI 2024).

Order of a step: running decodes, then chunks of prompts, admitted ones and those that wait alike; all by priority, then arrival. Nobody is admitted
past the head of the queue, so every sequence that fits the pool is admitted in the end. When a decode finds no block, the last in order gives its
blocks back and recomputes later; its tokens stay and go on identically.
"""

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf

from nanopd.batch import Batch, SeqSlice, StepResult
from nanopd.block_manager import BlockManager
from nanopd.config import SchedulerConfig
from nanopd.decoding import DraftContext
from nanopd.messages import WorkerStats
from nanopd.request import Request, TokenLogprobs
from nanopd.scheduler.admission import Admission
from nanopd.scheduler.load import Counters, worker_stats
from nanopd.scheduler.outcome import ComputedRange, EndedSeq, Outcomes, Reservation, SeqOutput
from nanopd.scheduler.plain_decodes import PlainDecodes, plain_decodes
from nanopd.scheduler.plan import Step, StepPlan
from nanopd.scheduler.roster import Roster
from nanopd.scheduler.sequence import LegKind, SeqState, Sequence
from nanopd.scheduler.slices import chunk_slice, decode_slice
from nanopd.scheduler.speculation import Speculation


class Scheduler:
    """Owns the sequences of one worker and their blocks. ``schedule`` and ``update`` take turns; several steps may be in flight.

    ``now`` arguments are seconds on the engine's clock.
    """

    def __init__(self, config: SchedulerConfig, blocks: BlockManager, max_model_len: int) -> None:
        self.blocks = blocks
        self.max_model_len = max_model_len
        self.outcomes = Outcomes()
        self._config = config
        self._chunk_size = config.prefill_chunk_size or config.max_num_batched_tokens
        self._roster = Roster()
        self._in_flight: deque[Step] = deque()
        self._ending: deque[tuple[int, EndedSeq]] = deque()  # (last step that may touch its blocks, what to say then)
        self._num_added = 0
        self._counters = Counters()
        self._admission = Admission(config, blocks, self._roster, self._counters)
        self._speculation = Speculation(blocks, self._counters, config.adapts_drafts)

    # ---- what a worker is asked to do

    def add(
        self, seq_id: str, request: Request, kind: LegKind, now: float, output_token_ids: SequenceOf[int] = ()
    ) -> None:
        """Takes on a leg. Raises InvalidRequestError for a request that no scheduler accepts."""
        seq = self._new_sequence(seq_id, request, kind, now, output_token_ids)
        if not self._is_settled(seq, now):
            self._roster.move(seq, SeqState.WAITING)

    def start(self, seq_id: str, first_token_id: int, now: float) -> None:
        """The KV of a reserved sequence is in its blocks: it decodes from here. Ignored for any other sequence."""
        seq = self._roster.get(seq_id)
        if seq is None or seq.state is not SeqState.RESERVED:
            return
        seq.received(now)
        self._register_blocks(seq, seq.num_computed_tokens)
        seq.token_ids.append(first_token_id)
        seq.num_initial_outputs += 1
        self._roster.move(seq, SeqState.RUNNING)
        self._is_settled(seq, now)

    def fork(
        self,
        seq_id: str,
        new_seq_id: str,
        request: Request,
        kind: LegKind,
        now: float,
        output_token_ids: SequenceOf[int] = (),
    ) -> None:
        """Takes on a leg that shares the computed blocks of ``seq_id`` as far as their tokens agree; the last token is fed anew.

        Blocks are copied when one of the two writes. Without anything to share it waits for admission like any other.
        """
        parent = self._roster.get(seq_id)
        num_shared = self._num_shareable(parent, (*request.prompt_token_ids, *output_token_ids))
        if parent is None or parent.table is None or num_shared == 0 or request.sampling.prompt_logprobs is not None:
            self.add(new_seq_id, request, kind, now, output_token_ids)
            return
        seq = self._new_sequence(new_seq_id, request, kind, now, output_token_ids)
        if self._is_settled(seq, now):
            return
        table = self.blocks.fork(parent.table, num_shared)
        seq.take_over(table, parent.chain[: num_shared // self.blocks.block_size], num_shared, now)
        self._roster.move(seq, SeqState.RUNNING)

    def _num_shareable(self, parent: Sequence | None, token_ids: tuple[int, ...]) -> int:
        """Leading tokens whose KV ``parent`` has computed, if all of them agree and there is a place for one more sequence."""
        if parent is None or self._roster.num_active >= self._config.max_num_seqs:
            return 0
        return parent.num_shareable(token_ids)

    def abort(self, seq_id: str) -> None:
        """Ends a leg; ``EndedSeq`` follows when nothing of it is left. Unknown ids are ignored.

        A held prefill whose blocks were reported keeps them until ``release``: someone may be reading.
        """
        seq = self._roster.get(seq_id)
        if seq is None or seq.state is SeqState.DRAINING:
            return
        if seq.is_exposed:
            self._roster.move(seq, SeqState.DRAINING)
        else:
            self._end(seq)

    def release(self, seq_id: str) -> None:
        """Nobody reads the blocks of a held prefill any more. A prefill still under way is aborted. Unknown ids are ignored."""
        seq = self._roster.get(seq_id)
        if seq is not None and seq.state is SeqState.HELD:
            self._drop(seq)
        elif seq is not None:
            self._end(seq)

    # ---- a step

    @property
    def is_running(self) -> bool:
        """Whether any sequence has its place and its blocks."""
        return bool(self._roster.running)

    @property
    def has_work(self) -> bool:
        """Whether ``schedule`` could do something now."""
        head = self._roster.waiting.peek()
        return bool(self._roster.running) or (head is not None and self._admission.can_admit(head))

    def draftable(self, now: float) -> list[DraftContext]:
        """The sequences whose next step should verify a draft."""
        return self._speculation.contexts(self._roster.running, now)

    def schedule(self, now: float, drafts: Mapping[str, SequenceOf[int]] | None = None) -> Batch | None:
        """The next step, or None if nothing can run now. Grants reservations either way.

        ``drafts``: by ``seq_id``, guessed tokens that may follow (see ``draftable``); verified where budget and blocks are to spare.
        """
        plan = StepPlan(self._config.max_num_batched_tokens)
        self._plan_decodes(plan, drafts or {})
        if self._config.step_multiple is not None:
            plan.spread_prompts(self._config.step_multiple)
        head = self._roster.waiting.peek()
        self._plan_chunks(plan, head)
        if not plan.has_preempted:
            self._admit(plan, now)
        if head is not None:
            self._plan_chunks(plan, None)
        if (step := plan.seal(self._counters.num_steps)) is None:
            return None
        self.blocks.pool.open_fence(self._counters.num_steps)
        self._counters.num_steps += 1
        self._in_flight.append(step)
        return step.batch

    def update(self, result: StepResult, now: float) -> None:
        """Takes the result of the oldest step in flight."""
        step = self._in_flight.popleft()
        self._close_fence(step.batch.step_id)
        row = 0
        for seq, piece in zip(step.seqs, step.batch.slices, strict=True):
            seq.num_in_flight -= 1
            if piece.verify:
                self._take_verified(seq, piece, result, row, now)
                row += piece.num_rows
                continue
            state = seq.state
            if state is SeqState.RUNNING:
                self._note_computed(seq, piece.start + piece.num_tokens)
            if piece.logprob_targets and seq.prompt_logprobs is not None:
                seq.prompt_logprobs.extend(result.prompt_logprobs[seq.seq_id])
            if piece.sample is None:
                continue
            seq.num_pending -= 1
            # the spare token of a sequence that has ended is dropped, and that of a preempted one: it will be drawn again
            if state is SeqState.RUNNING:
                self._accept(seq, (result.token_ids[row],), (result.logprobs[row],), now)
            row += 1
        self._speculation.learn(step.batch, now)

    def plain_decodes(self) -> PlainDecodes | None:
        """Many steps at once, for simulations: set if those in flight and those that follow only decode what runs, until something else happens."""
        if self._ending:
            return None
        return plain_decodes(self._roster, self._in_flight, self._counters, self.blocks, self._config.max_num_seqs)

    def _take_verified(self, seq: Sequence, piece: SeqSlice, result: StepResult, row: int, now: float) -> None:
        """The result of a step that verified a draft."""
        seq.num_pending -= 1
        if seq.state is SeqState.RUNNING:
            rows = slice(row, row + self._speculation.settle(seq, piece, result.token_ids[row : row + piece.num_rows]))
            self._note_computed(seq, seq.num_computed_tokens)
            self._accept(seq, result.token_ids[rows], result.logprobs[rows], now)

    def _plan_decodes(self, plan: StepPlan, drafts: Mapping[str, SequenceOf[int]]) -> None:
        last_step = self._counters.num_steps - 1
        is_writable = self.blocks.is_writable
        for seq in tuple(self._roster.running):
            start = seq.num_computed_tokens
            num_tokens = len(seq.token_ids) + seq.num_pending
            if num_tokens - start != 1 or num_tokens >= seq.feed_end or seq.state is not SeqState.RUNNING:
                continue
            if seq.num_pending and (seq.needs_history or seq.pending_step != last_step):
                continue  # the token must reach the host first
            if plan.budget == 0:
                break
            assert seq.table is not None
            if drafts and self._speculation.plan(seq, drafts.get(seq.seq_id, ()), plan, len(self._roster.running)):
                continue
            if is_writable(seq.table, start) or self._make_room(seq, start + 1, plan):
                plan.add(seq, decode_slice(seq))

    def _plan_chunks(self, plan: StepPlan, head: Sequence | None) -> None:
        """Of admitted prompts, those that go before ``head`` of the queue; what it leaves of the budget is for the others (``head`` None)."""
        for seq in tuple(self._roster.running):
            if plan.budget == 0 or (head is not None and head.key < seq.key):
                break
            is_free = seq.state is SeqState.RUNNING and seq not in plan.prompts
            if is_free and len(seq.token_ids) - seq.num_computed_tokens > 1:
                self._plan_chunk(seq, plan)

    def _plan_chunk(self, seq: Sequence, plan: StepPlan) -> None:
        num_tokens = plan.chunk_len(len(seq.token_ids) - seq.num_computed_tokens, self._chunk_size)
        if self._make_room(seq, seq.num_computed_tokens + num_tokens, plan):
            plan.add(seq, chunk_slice(seq, num_tokens))
            plan.prompts.append(seq)

    # ---- blocks

    def _make_room(self, seq: Sequence, end: int, plan: StepPlan) -> bool:
        """Makes the positions up to ``end`` writable, at the cost of whoever is last in order; False if not in this step."""
        blocks, table = self.blocks, seq.table
        assert table is not None
        while not blocks.can_write(table, seq.num_computed_tokens, end):
            if blocks.pool.num_fenced:
                return False  # blocks are on their way back
            if blocks.blocks_for(end) > blocks.num_blocks:
                if seq.num_pending == 0:
                    self._end(seq, _larger_than_pool(blocks.blocks_for(end), blocks.num_blocks))
                return False
            victim = next(other for other in reversed(self._roster.running) if other.is_preemptible)
            self._preempt(victim)
            plan.has_preempted = True
            if victim is seq:
                return False
        plan.copies += blocks.prepare_write(table, seq.num_computed_tokens, end)
        return True

    def _preempt(self, seq: Sequence) -> None:
        assert seq.table is not None
        self.blocks.free(seq.table)
        seq.lost_blocks()
        self._counters.num_preemptions += 1
        self._roster.move(seq, SeqState.WAITING)

    def _note_computed(self, seq: Sequence, end: int) -> None:
        """A finished step has stored the KV of positions up to ``end``."""
        self._register_blocks(seq, end)
        if seq.kind is LegKind.PREFILL:
            assert seq.table is not None
            seq.is_exposed = True
            self.outcomes.computed.append(ComputedRange(seq.seq_id, end, seq.table.ids))

    def _register_blocks(self, seq: Sequence, num_computed_tokens: int) -> None:
        assert seq.table is not None
        if num_computed_tokens // self.blocks.block_size > seq.table.num_registered:
            self.blocks.register(seq.table, seq.chain, seq.token_ids, num_computed_tokens)

    def _close_fence(self, step_id: int) -> None:
        self.blocks.pool.close_fence(step_id)
        while self._ending and self._ending[0][0] <= step_id:
            self.outcomes.ended.append(self._ending.popleft()[1])

    # ---- admission

    def _admit(self, plan: StepPlan, now: float) -> None:
        """Admits from the head of the queue while blocks, places and budget last."""
        while (seq := self._roster.waiting.peek()) is not None:
            if seq.kind is not LegKind.RESERVED and plan.budget == 0:
                return
            if not self._admission.admit(seq, now):
                return
            if seq.kind is LegKind.RESERVED:
                self._grant(seq)
            else:
                self._roster.move(seq, SeqState.RUNNING)
                self._plan_chunk(seq, plan)

    def _grant(self, seq: Sequence) -> None:
        assert seq.table is not None
        self._roster.move(seq, SeqState.RESERVED)
        num_resident = seq.num_computed_tokens
        to_write = tuple(seq.table.ids[num_resident // self.blocks.block_size :])
        self.outcomes.reserved.append(Reservation(seq.seq_id, to_write, num_resident))

    # ---- sequences

    def _new_sequence(
        self, seq_id: str, request: Request, kind: LegKind, now: float, output_token_ids: SequenceOf[int]
    ) -> Sequence:
        seq = Sequence(seq_id, request, kind, self._num_added, self.max_model_len, now, output_token_ids)
        self._num_added += 1
        self._roster.add(seq)
        return seq

    def _drop(self, seq: Sequence) -> None:
        """Forgets the sequence; its blocks go as soon as no step in flight can touch them."""
        self._roster.move(seq, SeqState.FINISHED)
        if seq.table is not None:
            self.blocks.free(seq.table)
            seq.table = None

    def _end(self, seq: Sequence, error: str | None = None) -> None:
        """Ends the sequence without finishing it."""
        self._drop(seq)
        ended = EndedSeq(seq.seq_id, error)
        if self._in_flight:
            self._ending.append((self._counters.num_steps - 1, ended))
        else:
            self.outcomes.ended.append(ended)

    def _is_settled(self, seq: Sequence, now: float) -> bool:
        """Ends a sequence whose tokens, as given, leave nothing to compute, or can never be served."""
        num_tokens, num_blocks = len(seq.token_ids), self.blocks.blocks_for(len(seq.token_ids))
        if seq.num_prompt_tokens >= self.max_model_len:
            self._end(
                seq,
                f"the prompt must be shorter than {self.max_model_len} tokens (max_model_len), got {seq.num_prompt_tokens}",
            )
        elif num_tokens > seq.num_prompt_tokens and (reason := seq.finish_reason()) is not None:
            self._drop(seq)
            index = num_tokens - seq.num_prompt_tokens
            self.outcomes.outputs.append(
                SeqOutput(seq.seq_id, index, (), finish_reason=reason, times=seq.take_times(now))
            )
        elif num_blocks > self.blocks.num_blocks:
            self._end(seq, _larger_than_pool(num_blocks, self.blocks.num_blocks))
        else:
            return False
        return True

    def _accept(
        self, seq: Sequence, token_ids: SequenceOf[int], logprobs: SequenceOf[TokenLogprobs | None], now: float
    ) -> None:
        """New tokens of a running sequence, which has all but the last of them already."""
        index = len(seq.token_ids) - seq.num_prompt_tokens - (len(token_ids) - 1)
        seq.token_ids.append(token_ids[-1])
        reason = seq.finish_reason()
        prompt_logprobs = seq.first_sampled(now) if seq.decode_start is None else None
        if seq.kind.samples_once:
            self._roster.move(seq, SeqState.HELD)
        elif reason is not None:
            self._drop(seq)
            seq.take_times(now)
        wanted = () if seq.request.sampling.logprobs is None else tuple(logprobs)
        self.outcomes.outputs.append(
            SeqOutput(seq.seq_id, index, tuple(token_ids), wanted, prompt_logprobs, reason, seq.times)
        )

    # ---- insight

    def stats(self, step_ms: float = 0.0) -> WorkerStats:
        """The worker's load; ``step_ms`` is the engine's to know."""
        return worker_stats(self._roster, self.blocks.pool, self._counters, step_ms)

    def check(self) -> None:
        """Asserts free + owned + cached = total and that the sequences' tables are all the owners."""
        self.blocks.check(seq.table for seq in self._roster.all() if seq.table is not None)


def _larger_than_pool(needed: int, available: int) -> str:
    return f"the sequence needs {needed} KV blocks, but the pool has {available}"
