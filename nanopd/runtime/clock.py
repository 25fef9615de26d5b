"""The wall clock of everything that runs for real."""

from nanopd.workers.wall_clock import WallClock

__all__ = ["WallClock"]
