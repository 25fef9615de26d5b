"""Neighbouring blocks are copied together: many small copies cost more than their bytes."""

from collections.abc import Iterator, Sequence


def block_runs(
    source_ids: Sequence[int], destination_ids: Sequence[int], max_blocks: int
) -> Iterator[tuple[int, int, int]]:
    """Splits pairs of block ids into runs ``(source, destination, num_blocks)`` consecutive on both sides, ``max_blocks`` at most.

    >>> list(block_runs([4, 5, 6, 9], [0, 1, 7, 8], max_blocks=8))
    [(4, 0, 2), (6, 7, 1), (9, 8, 1)]
    """
    start = 0
    for i in range(1, len(source_ids) + 1):
        if i < len(source_ids) and i - start < max_blocks:
            offset = i - start
            if source_ids[i] == source_ids[start] + offset and destination_ids[i] == destination_ids[start] + offset:
                continue
        yield source_ids[start], destination_ids[start], i - start
        start = i
