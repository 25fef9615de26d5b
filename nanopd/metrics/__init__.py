"""Latency measures of requests (TTFT, TPOT, ITL, E2E, goodput) and their summaries; pure functions of times."""

from nanopd.metrics.latency import RequestTimes, goodput, slo_attainment
from nanopd.metrics.summary import Summary, percentile

__all__ = ["RequestTimes", "Summary", "goodput", "percentile", "slo_attainment"]
