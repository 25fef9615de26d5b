"""Who gets a place and blocks for its first tokens."""

from nanopd.block_manager import BlockManager
from nanopd.config import SchedulerConfig
from nanopd.scheduler.load import Counters
from nanopd.scheduler.roster import Roster
from nanopd.scheduler.sequence import Sequence


class Admission:
    """Lets sequences in while there are places and blocks. It does not choose: the scheduler asks for the head of its queue."""

    def __init__(self, config: SchedulerConfig, blocks: BlockManager, roster: Roster, counters: Counters) -> None:
        self._blocks = blocks
        self._roster = roster
        self._counters = counters
        self._max_num_seqs = config.max_num_seqs
        self._watermark_blocks = round(config.watermark * blocks.num_blocks)

    def can_admit(self, seq: Sequence) -> bool:
        return self._fits(seq, self._find_prefix(seq))

    def admit(self, seq: Sequence, now: float) -> bool:
        """Gives a sequence its blocks, the longest prefix that is cached first; False, and nothing done, if it has to wait."""
        prefix = self._find_prefix(seq)
        if not self._fits(seq, prefix):
            return False
        seq.table = self._blocks.allocate(len(seq.token_ids), prefix)
        seq.num_computed_tokens = len(prefix) * self._blocks.block_size
        if seq.lacks_prompt_logprobs:
            seq.prompt_logprobs = []  # all over again after a preemption
        if seq.admission_time is None:
            seq.admission_time = seq.prefill_start = now
            seq.num_cached_tokens = seq.num_computed_tokens
        if self._blocks.enable_prefix_cache:
            self._counters.prefix_query_tokens += len(seq.token_ids)
            self._counters.prefix_hit_tokens += seq.num_computed_tokens
        return True

    def _find_prefix(self, seq: Sequence) -> list[int]:
        return self._blocks.find_prefix(seq.chain, seq.token_ids, seq.max_cached_tokens)

    def _fits(self, seq: Sequence, prefix: list[int]) -> bool:
        if seq.num_in_flight or self._roster.num_active >= self._max_num_seqs:
            return False
        headroom = self._watermark_blocks if self._roster.running else 0  # for running ones to grow into
        return self._blocks.can_allocate(len(seq.token_ids), prefix, headroom)
