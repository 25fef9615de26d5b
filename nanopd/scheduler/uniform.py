"""The random number behind a sampled token: a pure function of the request's seed and the token's position.

Recovery, preemption, hand-off and every path therefore draw the same token. SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
number generators", OOPSLA 2014) used as a counter-based generator: output ``i`` of a seed needs no state of output ``i - 1``.
"""

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_SCALE = 2.0**-24


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def stream_key(seed: int) -> int:
    """Key of a seed's stream, mixed once so that the streams of nearby seeds are unrelated."""
    return _mix((seed + _GOLDEN) & _MASK)


def uniform(key: int, position: int) -> float:
    """A number in [0, 1) with 24 random bits: exact in float32, where it is still below 1.

    ``position`` is the index of the sampled token in the sequence (prompt included).
    """
    return (_mix((key + (position + 1) * _GOLDEN) & _MASK) >> 40) * _SCALE
