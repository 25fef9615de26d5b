"""In which order to hand in requests that are all there from the start."""

from collections.abc import Sequence


def longest_first(max_tokens: Sequence[int | None]) -> list[int]:
    """Indices of requests by falling ``max_tokens``, unbounded ones first, equals as they come.

    Longest processing time first (Graham, "Bounds on multiprocessing timing anomalies", 1969): what takes most steps starts first, and the short ones
    that come last keep the batch full while it runs.
    """
    return sorted(range(len(max_tokens)), key=lambda i: (max_tokens[i] is not None, -(max_tokens[i] or 0)))
