"""Log-spaced bins of output lengths, six an octave, single lengths where those would be narrower than a token."""

from bisect import bisect_left

LONGEST = 32_768  # lengths above count as this
_PER_OCTAVE = 6


def _edges() -> tuple[int, ...]:
    edges, step = [0], 0
    while edges[-1] < LONGEST:
        edge = round(2.0 ** (step / _PER_OCTAVE))
        step += 1
        if edge > edges[-1]:
            edges.append(edge)
    return tuple(edges)


EDGES = _edges()  # bin b holds the lengths in (EDGES[b], EDGES[b + 1]]
NUM_BINS = len(EDGES) - 1


def bin_of(length: int) -> int:
    """The bin of a length of at least 1."""
    return bisect_left(EDGES, min(length, LONGEST)) - 1


def num_survived(length: int) -> int:
    """Bins a request that is known to be longer than ``length`` has wholly outlived."""
    return bisect_left(EDGES, min(length, LONGEST) + 1) - 1
