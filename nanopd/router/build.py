"""Routers by name."""

from collections.abc import Callable
from dataclasses import replace

from nanopd.config.cluster import POLICIES
from nanopd.cost_model import HardwareProfile, bundled, bundled_names, original_parameters
from nanopd.cost_model.original import CPU, H20, OriginalParameters
from nanopd.errors import ConfigError
from nanopd.request import Slo
from nanopd.router.adaptive import AdaptiveOptions, AdaptiveRouter
from nanopd.router.baselines.counting import LeastWorkRouter, RoundRobinRouter, ThresholdRouter
from nanopd.router.baselines.fixed import FixedPathRouter
from nanopd.router.baselines.original import OriginalRouter
from nanopd.router.baselines.published import ArrowRouter, KairosRouter, TaiChiRouter
from nanopd.router.router import Router

_PROFILES = {"cpu": "cpu_smollm2", "cuda": "h200_qwen3_8b"}  # that come closest to a device nobody has profiled
_DEFAULT_SLO = Slo(2000.0, 50.0)

_COUNTING: dict[str, Callable[[], Router]] = {
    "fixed": FixedPathRouter,
    "round-robin": RoundRobinRouter,
    "least-work": LeastWorkRouter,
    "dynamo": lambda: ThresholdRouter("dynamo", 512, 8192),
    "llm-d": lambda: ThresholdRouter("llm-d", 256, None),
}
_MEASURED: dict[str, Callable[[HardwareProfile], Router]] = {
    "arrow": lambda profile: ArrowRouter(profile.step, _DEFAULT_SLO),
    "taichi": lambda profile: TaiChiRouter(profile.step, _DEFAULT_SLO),
    "kairos": lambda profile: KairosRouter(profile.step, _DEFAULT_SLO),
}
assert set(POLICIES) == {"auto", "original", "adaptive", *_COUNTING, *_MEASURED}


def build(
    kv_bytes_per_token: int,
    device: str = "cpu",
    policy: str = "original",
    profile: HardwareProfile | None = None,
    *,
    rejects_hopeless: bool = False,
) -> Router:
    """The router ``policy`` (one of ``POLICIES``) of a cluster on ``device`` (cpu | cuda), for a model whose KV takes that many bytes per token.

    ``auto`` is the adaptive policy if ``profile`` is given or one of such a device and model is bundled, else the original's formula, and its
    decisions say so.

    ``profile``: of this hardware and model; None: the closest that is bundled, and where there is none the adaptive policy is the original's
    formula. ``rejects_hopeless``: the adaptive policy refuses requests that state objectives no plan is likely to keep. Raises ConfigError.
    """
    if policy == "auto":
        profile = profile or _fitting(device, kv_bytes_per_token)
        if profile is None:
            return _original(kv_bytes_per_token, device, None, "original (no profile fits)")
        policy = "adaptive"
    if profile is None and policy == "adaptive" and _PROFILES.get(device) not in bundled_names():
        policy = "original"
    if policy == "original":
        return _original(kv_bytes_per_token, device, profile, policy)
    if policy in _COUNTING:
        return _COUNTING[policy]()
    if policy not in _MEASURED and policy != "adaptive":
        raise ConfigError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    if profile is None:
        profile = _closest(device, policy)
    if policy == "adaptive":
        depth = 1 if device == "cpu" else 2
        return AdaptiveRouter(profile, AdaptiveOptions(pipeline_depth=depth, rejects_hopeless=rejects_hopeless))
    return _MEASURED[policy](profile)


def _original(kv_bytes_per_token: int, device: str, profile: HardwareProfile | None, name: str) -> OriginalRouter:
    parameters: OriginalParameters = CPU if device == "cpu" else H20
    if profile is not None:
        parameters = original_parameters(profile)
    return OriginalRouter(replace(parameters, bytes_per_token=kv_bytes_per_token), name=name)


def _fitting(device: str, kv_bytes_per_token: int) -> HardwareProfile | None:
    """The bundled profile of such a device, if its model's KV is as large: else it is of another model."""
    name = _PROFILES.get(device, "")
    profile = bundled(name) if name in bundled_names() else None
    return profile if profile is not None and profile.kv_bytes_per_token == kv_bytes_per_token else None


def _closest(device: str, policy: str) -> HardwareProfile:
    name = _PROFILES.get(device, "")
    if name not in bundled_names():
        raise ConfigError(
            f"policy {policy!r} needs a hardware profile of {device}: run `nanopd profile`, or take policy 'original'"
        )
    return bundled(name)
