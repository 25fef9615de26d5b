"""The dashboard at ``/``: a page, one JSON snapshot and one stream of them."""

from nanopd.server.dashboard.endpoints import DashboardEndpoints
from nanopd.server.dashboard.feed import DashboardFeed

__all__ = ["DashboardEndpoints", "DashboardFeed"]
