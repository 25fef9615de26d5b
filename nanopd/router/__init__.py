"""Plans per request: which worker prefills, which decodes, and why."""

from dataclasses import replace

from nanopd.cost_model.original import CPU, H20
from nanopd.router.baselines.original import OriginalRouter
from nanopd.router.plan import Candidate, Decision
from nanopd.router.router import Router
from nanopd.router.view import ClusterView, LegLoad, WorkerView

__all__ = ["Candidate", "ClusterView", "Decision", "LegLoad", "Router", "WorkerView", "build"]


def build(kv_bytes_per_token: int, device: str = "cpu") -> Router:
    """The router of a cluster on ``device`` (cpu | cuda) for a model whose KV takes that many bytes per token."""
    return OriginalRouter(replace(CPU if device == "cpu" else H20, bytes_per_token=kv_bytes_per_token))
