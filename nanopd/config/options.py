"""The configs as one flat set of options, for callers who give names and values: the command line, ``LLM(**options)``."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from nanopd.config.cluster import ClusterConfig, Topology
from nanopd.config.engine import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.errors import ConfigError
from nanopd.request import Strategy


def build_configs(options: Mapping[str, Any]) -> tuple[EngineConfig, ClusterConfig]:
    """Configs with ``options`` set by field name, and ``workers`` written as ``1C+1P+1D``.

    Raises ConfigError for unknown names (listing the valid ones) and for values that cannot be used.
    """
    given = dict(options)
    if "workers" in given:
        given["topology"] = Topology.parse(str(given.pop("workers")))
    if "strategy" in given:
        given["strategy"] = _strategy(given["strategy"])
    parts = {kind: _take(given, kind) for kind in (CacheConfig, SchedulerConfig, EngineConfig, ClusterConfig)}
    if given:
        raise ConfigError(f"unknown option {', '.join(sorted(given))}; valid options are {', '.join(option_names())}")
    engine = EngineConfig(
        cache=CacheConfig(**parts[CacheConfig]),
        scheduler=SchedulerConfig(**parts[SchedulerConfig]),
        **parts[EngineConfig],
    )
    return engine, ClusterConfig(**parts[ClusterConfig])


def option_names() -> tuple[str, ...]:
    """Every name ``build_configs`` takes."""
    names = {name for kind in (CacheConfig, SchedulerConfig, EngineConfig, ClusterConfig) for name in _names(kind)}
    return tuple(sorted((names - {"topology"}) | {"workers"}))


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in ("cache", "scheduler")]


def _take(given: dict[str, Any], kind: type) -> dict[str, Any]:
    return {name: given.pop(name) for name in _names(kind) if name in given}


def _strategy(value: Any) -> Strategy:
    try:
        return Strategy(value)
    except ValueError:
        raise ConfigError(f"strategy must be one of {', '.join(Strategy)}, got {value!r}") from None
