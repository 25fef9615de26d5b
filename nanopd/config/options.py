"""The configs as one flat set of options, for callers who give names and values: the command line, ``LLM(**options)``."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from nanopd.config.cluster import ClusterConfig, Topology
from nanopd.config.engine import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.errors import ConfigError
from nanopd.request import Strategy

_KINDS = (CacheConfig, SchedulerConfig, EngineConfig, ClusterConfig)
_NOT_FLAT = ("cache", "scheduler", "topology", "strategy")  # made of others, or written in another way


def build_configs(options: Mapping[str, Any]) -> tuple[EngineConfig, ClusterConfig]:
    """Configs with ``options`` set by field name, and ``workers`` written as ``1C+1P+1D``.

    Raises ConfigError for unknown names (listing the valid ones) and for values that cannot be used.
    """
    given = dict(options)
    workers, strategy = given.pop("workers", None), given.pop("strategy", None)
    cache, scheduler, engine, cluster = (_take(given, kind) for kind in _KINDS)
    if given:
        raise ConfigError(f"unknown option {', '.join(sorted(given))}; valid options are {', '.join(option_names())}")
    if workers is not None:
        cluster["topology"] = Topology.parse(str(workers))
    if strategy is not None:
        cluster["strategy"] = _strategy(strategy)
    return EngineConfig(cache=CacheConfig(**cache), scheduler=SchedulerConfig(**scheduler), **engine), ClusterConfig(
        **cluster
    )


def option_names() -> tuple[str, ...]:
    """Every name ``build_configs`` takes."""
    return tuple(sorted({"workers", "strategy", *(name for kind in _KINDS for name in _names(kind))}))


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in _NOT_FLAT]


def _take(given: dict[str, Any], kind: type) -> dict[str, Any]:
    return {name: given.pop(name) for name in _names(kind) if name in given}


def _strategy(value: Any) -> Strategy:
    try:
        return Strategy(value)
    except ValueError:
        raise ConfigError(f"strategy must be one of {', '.join(Strategy)}, got {value!r}") from None
