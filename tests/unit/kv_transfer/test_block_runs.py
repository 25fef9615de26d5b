from hypothesis import given
from hypothesis import strategies as st

from nanopd.kv_transfer.block_runs import block_runs

ids = st.lists(st.integers(0, 12), max_size=24)


@given(ids, ids, st.integers(1, 6))
def test_runs_name_exactly_the_given_pairs_in_order(source_ids, destination_ids, max_blocks):
    count = min(len(source_ids), len(destination_ids))
    pairs = list(zip(source_ids[:count], destination_ids[:count], strict=True))
    runs = list(block_runs(source_ids[:count], destination_ids[:count], max_blocks))
    assert [(s + i, d + i) for s, d, n in runs for i in range(n)] == pairs
    assert all(1 <= n <= max_blocks for _, _, n in runs)


def test_consecutive_blocks_become_one_run():
    assert list(block_runs([3, 4, 5], [7, 8, 9], max_blocks=8)) == [(3, 7, 3)]
    assert list(block_runs([3, 4, 5], [7, 8, 9], max_blocks=2)) == [(3, 7, 2), (5, 9, 1)]
    assert list(block_runs([5, 4], [9, 8], max_blocks=8)) == [(5, 9, 1), (4, 8, 1)]
