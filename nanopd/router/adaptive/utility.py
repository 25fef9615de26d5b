"""From predicted times to the chance that objectives are kept."""

from math import erfc, sqrt

_ROOT = sqrt(2.0)


def chance(value: float, goal: float, spread: float) -> float:
    """That a time predicted as ``value`` stays within ``goal``; ``spread`` is the normal error's deviation as a share of the goal."""
    z = (value - goal) / (spread * goal)
    if z > 5.0:
        return 0.0
    return 0.5 * erfc(z / _ROOT) if z > -5.0 else 1.0
