"""Configuration: frozen dataclasses, composed and resolved once."""

from nanopd.config.cluster import ClusterConfig, Role, Topology, WorkerSpec
from nanopd.config.engine import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.config.model import ModelConfig, RopeScaling
from nanopd.config.server import ServerConfig

__all__ = [
    "CacheConfig",
    "ClusterConfig",
    "EngineConfig",
    "ModelConfig",
    "Role",
    "RopeScaling",
    "SchedulerConfig",
    "ServerConfig",
    "Topology",
    "WorkerSpec",
]
