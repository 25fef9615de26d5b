"""Who gets a place and blocks."""

import pytest

from nanopd.block_manager import BlockManager
from nanopd.config import SchedulerConfig
from nanopd.request import Request, SamplingParams
from nanopd.scheduler.admission import Admission
from nanopd.scheduler.load import Counters
from nanopd.scheduler.roster import Roster
from nanopd.scheduler.sequence import LegKind, SeqState, Sequence

BLOCK = 4


def sequence(name, num_tokens, roster):
    request = Request(name, tuple(range(num_tokens)), SamplingParams(max_tokens=8, temperature=0.0))
    seq = Sequence(name, request, LegKind.LOCAL, len(roster), 256, 0.0, ())
    roster.add(seq)
    return seq


def admission(num_blocks=20, **options):
    roster, counters = Roster(), Counters()
    blocks = BlockManager(num_blocks, BLOCK)
    return Admission(SchedulerConfig(**options), blocks, roster, counters), roster, counters, blocks


def test_the_watermark_is_for_running_ones():
    admit, roster, _, blocks = admission(num_blocks=20, watermark=0.25)
    first, second = sequence("a", 16 * BLOCK, roster), sequence("b", 4 * BLOCK, roster)
    assert admit.admit(first, 1.0) and first.admission_time == 1.0
    roster.move(first, SeqState.RUNNING)
    assert not admit.can_admit(second) and not admit.admit(second, 2.0)
    assert second.table is None and blocks.pool.num_available == 4
    roster.move(first, SeqState.FINISHED)
    assert admit.admit(second, 2.0), "nobody runs: all blocks may be taken"


def test_places_are_bounded_whatever_the_blocks():
    admit, roster, _, _ = admission(max_num_seqs=1)
    first, second = sequence("a", 3, roster), sequence("b", 3, roster)
    assert admit.admit(first, 0.0)
    roster.move(first, SeqState.RUNNING)
    assert not admit.can_admit(second)


@pytest.mark.parametrize("num_tokens", [8, 11])
def test_a_cached_prefix_counts_as_computed(num_tokens):
    admit, roster, counters, blocks = admission()
    first = sequence("a", num_tokens, roster)
    assert admit.admit(first, 0.0) and first.num_computed_tokens == 0
    blocks.register(first.table, first.chain, first.token_ids, num_tokens)
    again = sequence("b", num_tokens, roster)
    assert admit.admit(again, 3.0)
    # the last token must be computed for its logits
    assert again.num_computed_tokens == again.num_cached_tokens == (num_tokens - 1) // BLOCK * BLOCK
    assert (counters.prefix_hit_tokens, counters.prefix_query_tokens) == (again.num_computed_tokens, 2 * num_tokens)
