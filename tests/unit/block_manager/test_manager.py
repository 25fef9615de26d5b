"""The block manager's rules, one by one."""

from array import array

import pytest

from nanopd.block_manager import BlockManager
from nanopd.block_manager.prefix import extend_chain


def known(blocks: BlockManager, tokens: list[int]) -> tuple:
    """A sequence whose blocks the prefix cache knows, computed by a step that has ended."""
    chain: list[bytes] = []
    ids = array("i", tokens)
    table = blocks.allocate(len(tokens), blocks.find_prefix(chain, ids, len(tokens)))
    blocks.register(table, chain, ids, len(tokens))
    return table, chain, ids


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="num_blocks must be at least 1, got 0"):
        BlockManager(0, 16)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        BlockManager(4, 0)


def test_a_prefix_is_found_in_whole_blocks_only() -> None:
    blocks = BlockManager(8, 4)
    table, *_ = known(blocks, list(range(10)))
    chain: list[bytes] = []
    assert blocks.find_prefix(chain, array("i", range(12)), 12) == list(table.ids[:2])
    assert blocks.find_prefix([], array("i", [0, 1, 2, 3, 9, 9, 9, 9]), 8) == [table.ids[0]]
    assert blocks.find_prefix([], array("i", range(8)), 7) == [table.ids[0]]  # the last token must be computed


def test_a_block_is_known_by_everything_before_it() -> None:
    one: list[bytes] = []
    other: list[bytes] = []
    extend_chain(one, array("i", [1, 2, 3, 4]), 2, 2)
    extend_chain(other, array("i", [9, 2, 3, 4]), 2, 2)
    assert one[1] != other[1]
    salted: list[bytes] = []
    extend_chain(salted, array("i", [1, 2, 3, 4]), 2, 2, salt=b"tenant")
    assert salted[0] != one[0]


def test_cached_blocks_are_evicted_least_recently_used_and_from_the_end() -> None:
    blocks = BlockManager(4, 2)
    first, *_ = known(blocks, [1, 1, 1, 1])
    second, *_ = known(blocks, [2, 2, 2, 2])
    first_ids, second_ids = list(first.ids), list(second.ids)
    blocks.free(first)
    blocks.free(second)
    assert (blocks.pool.num_available, blocks.pool.num_cached) == (4, 4)
    revived = blocks.allocate(2, [first_ids[0]])  # used again: now the most recent
    blocks.free(revived)
    assert [blocks.pool.take() for _ in range(4)] == [first_ids[1], second_ids[1], second_ids[0], first_ids[0]]


def test_shared_prefix_blocks_are_not_counted_twice() -> None:
    blocks = BlockManager(3, 2)
    table, chain, ids = known(blocks, [1, 1, 1, 1])
    blocks.free(table)
    prefix = blocks.find_prefix(chain, ids, 4)
    assert len(prefix) == 2
    assert blocks.can_allocate(6, prefix) and not blocks.can_allocate(6, prefix, headroom=1)
    assert not blocks.can_allocate(8, prefix)  # both cached blocks are needed for the prefix itself


def test_whoever_writes_a_shared_block_gets_a_copy() -> None:
    blocks = BlockManager(6, 4)
    parent = blocks.allocate(6)
    child = blocks.fork(parent, 6)
    assert child.ids == parent.ids and not blocks.is_writable(parent, 6)
    shared = parent.ids[1]
    copies = blocks.prepare_write(child, 6, 7)
    assert copies == [(shared, child.ids[1])] and child.ids[1] != shared
    assert blocks.is_writable(parent, 6) and blocks.is_writable(child, 6)
    assert child.ids[0] == parent.ids[0]
    assert blocks.prepare_write(parent, 6, 7) == []
    blocks.check([parent, child])


def test_copies_need_blocks_too() -> None:
    blocks = BlockManager(2, 4)
    parent = blocks.allocate(6)
    child = blocks.fork(parent, 6)
    assert not blocks.can_write(child, 6, 7)
    blocks.free(parent)
    assert blocks.can_write(child, 6, 7)


def test_the_source_of_a_pending_copy_outlives_its_owners() -> None:
    blocks = BlockManager(3, 4)
    parent = blocks.allocate(3)
    child = blocks.fork(parent, 3)
    [(source, _)] = blocks.prepare_write(child, 3, 4)
    blocks.free(parent)
    assert source not in blocks.allocate(4).ids  # one block is left, and it is not the source
    assert blocks.pool.num_fenced == 1 and not blocks.can_allocate(1)
    blocks.pool.open_fence(0)
    blocks.pool.close_fence(0)
    assert blocks.can_allocate(1)


def test_freed_blocks_wait_for_submitted_steps() -> None:
    blocks = BlockManager(2, 4)
    table = blocks.allocate(8)
    blocks.pool.open_fence(0)
    blocks.pool.open_fence(1)
    blocks.free(table)
    assert not blocks.can_allocate(1)
    blocks.pool.close_fence(0)
    assert not blocks.can_allocate(1)
    blocks.pool.close_fence(1)
    assert blocks.can_allocate(8)


def test_a_fenced_block_of_known_content_can_be_shared_at_once() -> None:
    blocks = BlockManager(2, 2)
    table, chain, ids = known(blocks, [1, 1, 1, 1])
    blocks.pool.open_fence(0)
    blocks.free(table)
    again = blocks.allocate(4, blocks.find_prefix(chain, ids, 4))
    blocks.pool.close_fence(0)
    assert not blocks.can_allocate(1)
    blocks.check([again])


def test_truncation_gives_blocks_back_and_keeps_the_cache_true() -> None:
    blocks = BlockManager(6, 2)
    table, chain, ids = known(blocks, [1, 2, 3, 4, 5, 6])
    blocks.truncate(table, 3)
    assert len(table.ids) == 2
    assert blocks.prepare_write(table, 3, 4) == []  # ours alone: written in place, and forgotten by the cache
    assert blocks.find_prefix(chain[:2], ids, 4) == [table.ids[0]]
    blocks.check([table])
