"""A worker's load in numbers, for routing and dashboards."""

from dataclasses import dataclass

from nanopd.block_manager.pool import BlockPool
from nanopd.messages import WorkerStats
from nanopd.scheduler.roster import Roster


@dataclass(slots=True)
class Counters:
    """What a scheduler has done since it was built."""

    num_steps: int = 0
    num_preemptions: int = 0
    prefix_hit_tokens: int = 0
    prefix_query_tokens: int = 0
    num_draft_tokens: int = 0  # guessed and verified
    num_accepted_tokens: int = 0  # guessed right


def worker_stats(roster: Roster, pool: BlockPool, counters: Counters, step_ms: float) -> WorkerStats:
    """``step_ms`` is the engine's to know."""
    left_to_prefill = (len(seq.token_ids) - seq.num_computed_tokens for seq in roster.running)
    return WorkerStats(
        num_running=len(roster.running),
        num_waiting=len(roster.waiting),
        num_reserved=roster.num_reserved,
        num_free_blocks=pool.num_available,
        num_cached_blocks=pool.num_cached,
        num_waiting_tokens=sum(len(seq.token_ids) for seq in roster.waiting) + sum(n for n in left_to_prefill if n > 1),
        num_context_tokens=sum(seq.num_computed_tokens for seq in roster.running),
        step_ms=step_ms,
        num_steps=counters.num_steps,
        num_preemptions=counters.num_preemptions,
        prefix_hit_tokens=counters.prefix_hit_tokens,
        prefix_query_tokens=counters.prefix_query_tokens,
        num_draft_tokens=counters.num_draft_tokens,
        num_accepted_tokens=counters.num_accepted_tokens,
    )
