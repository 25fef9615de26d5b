"""Plans per request: which worker prefills, which decodes, and why."""

from nanopd.router.build import POLICIES, build
from nanopd.router.plan import Candidate, Decision
from nanopd.router.router import Router
from nanopd.router.view import ClusterView, LegLoad, WorkerView

__all__ = ["POLICIES", "Candidate", "ClusterView", "Decision", "LegLoad", "Router", "WorkerView", "build"]
