"""From predicted times to the chance that objectives are kept."""

from math import exp


def chance(value: float, goal: float, spread: float) -> float:
    """That a time predicted as ``value`` stays within ``goal``; ``spread`` is the logistic scale of the error as a share of the goal."""
    x = (value - goal) / (spread * goal)
    if x > 30.0:
        return 0.0
    return 1.0 / (1.0 + exp(x)) if x > -30.0 else 1.0
